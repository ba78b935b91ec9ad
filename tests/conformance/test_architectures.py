"""A few rows of the sweep over architectures: one of each way in which a model is served.

`make sweep` runs the whole table (`tests/conformance/architectures`).
"""

import pytest

from conformance.architectures.sweep import sweep
from conformance.architectures.table import ARCHITECTURES, Architecture

pytest.importorskip("torch")
pytest.importorskip("transformers")

QUICK = [row for row in ARCHITECTURES if row.quick]


@pytest.mark.parametrize("row", QUICK, ids=[row.name for row in QUICK])
def test_answers_are_the_source_s(row: Architecture) -> None:
    outcome = sweep(row)
    assert outcome.verdict == "exact", outcome
    assert (outcome.engine == "torch") == bool(outcome.why)


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ARCHITECTURES}) == len(ARCHITECTURES) > 90
