"""What a language model takes of the memory, and what would fit where it does not."""

import re
from typing import Any

import pytest

from lmaas.errors import DoesNotFit
from lmaas.serving.plan import language_plan, needed_bytes

GB = 10**9


def plan(**changes: Any) -> str:
    given: dict[str, Any] = {
        "weights_bytes": GB,
        "cache_bytes": GB,
        "kv_bytes_per_token": 100_000,
        "context_length": 32_768,
        "budget": 20 * GB,
        "variants": {},
        "num_parameters": GB // 2,
    }
    return language_plan("m", **(given | changes))


def test_what_fits_is_told_with_numbers() -> None:
    assert plan() == "weights 1.0 GB (2.3 GB loaded) + KV cache 1.0 GB of 20.0 GB: fits"
    assert plan(budget=needed_bytes(GB) + GB).endswith("fits")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variants": {"int8": GB // 2}}, r"int8 \(0\.5 GB, made already; set variant=int8\)"),
        ({}, r"int8 \(about 0\.5 GB; `lmaas compress m --to int8`\)"),
        ({"variants": {"int4": GB}, "cache_bytes": 2 * GB}, r"a cache of 9\d\d\d tokens"),
        ({"num_parameters": 10 * GB, "budget": GB}, "raise memory_budget_bytes"),
    ],
)
def test_what_does_not_fit_is_told_what_would(changes: dict[str, Any], told: str) -> None:
    given = {"budget": needed_bytes(GB) + GB - 1} | changes
    with pytest.raises(DoesNotFit, match=r"weights 1\.0 GB .* does not fit") as caught:
        plan(**given)
    assert re.search(told, str(caught.value.hint)), caught.value.hint
