"""What a recipe says is read, or refused: no option is without effect."""

from typing import Any

import pytest

from lmaas.errors import InvalidInput
from lmaas.recipe import recipe_of

GIVEN: dict[str, Any] = {"name": "x", "task": "tabular", "data": {"train": "x.csv"}}
LANGUAGE = {**GIVEN, "task": "text-generation"}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (GIVEN | {"optimizer": {"name": "sgd", "beta1": 0.5}}, "sgd does not read beta1"),
        (GIVEN | {"optimizer": {"momentum": 0.9}}, "adamw does not read momentum"),
        (GIVEN | {"schedule": {"gamma": 0.5}}, "constant does not read gamma"),
        (GIVEN | {"schedule": {"name": "cosine", "every_steps": 9}}, "it reads end, cycles"),
        (GIVEN | {"pruning": {"method": "2:4", "sparsity": 0.7}}, "2:4 does not read sparsity"),
        (GIVEN | {"pruning": {"method": "2:4", "scope": "layer"}}, "2:4 does not read scope"),
        (GIVEN | {"method": {"beta": 0.3}}, "supervised does not read beta"),
        (GIVEN | {"method": {"packing": True}}, "tabular has no packing"),
        (LANGUAGE | {"method": {"type": "dpo", "packing": True}}, "dpo does not read packing"),
        (LANGUAGE | {"adapter": {}, "pruning": {}}, "not pruned: take one"),
        (LANGUAGE | {"data": {"train": "x", "columns": {"text": "y"}}}, r"no data\.columns"),
        (LANGUAGE | {"model": {"base": "b", "architecture": "qwen3"}}, "leave them out"),
        (GIVEN | {"optimiser": {}}, "optimiser"),
        (GIVEN | {"data": {"train": "x.csv", "valid": 0.1}}, "valid"),
    ],
)
def test_what_would_have_no_effect_is_refused(given: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as refused:
        recipe_of(given)
    assert refused.value.param == "recipe"


@pytest.mark.parametrize("name", ["step", "exponential", "polynomial", "cosine", "one-cycle"])
def test_what_is_read_is_taken(name: str) -> None:
    read: dict[str, dict[str, Any]] = {
        "step": {"gamma": 0.5},
        "exponential": {"every_steps": 3},
        "cosine": {"cycles": 2},
    }
    schedule = {"name": name, **read.get(name, {"end": 0.1})}
    assert recipe_of(GIVEN | {"schedule": schedule}).schedule.name == name
