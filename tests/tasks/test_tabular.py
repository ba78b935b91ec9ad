import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.cells import category
from lmaas.tasks.tabular.columns import (
    Category,
    Columns,
    Number,
)
from lmaas.tasks.tabular.fitting import fit_category, fit_number
from lmaas.types import JSON, Payload, Signature, TensorSpec

AGE = Number(name="age", mean=40, std=10, missing=True)
HEIGHT = Number(name="height", mean=1.7, std=0.1, missing=False)
JOB = Category(name="job", values=("nurse", "pilot"))
COLUMNS = Columns(
    columns=(AGE, JOB, HEIGHT), target="pay", mean=1000.0, std=100.0, left_out=("id",)
)
VALUE = Signature(
    inputs=(TensorSpec(name="features", dtype="float32", shape=(-1, 6)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 1)),),
)
CLASSES = msgspec.structs.replace(
    VALUE,
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
    labels=("low", "mid", "high"),
    outputs_are="logits",
)


def ask(tmp_path: Path, inputs: Any, signature: Signature, outputs: list[list[float]]) -> Any:
    return ask_body(tmp_path, {"inputs": inputs}, signature, outputs)


def ask_body(tmp_path: Path, given: Any, signature: Signature, outputs: list[list[float]]) -> Any:
    COLUMNS.save(tmp_path)
    task = tasks.get("tabular").bind(tmp_path)
    signature = task.check_signature(signature)
    body = json.dumps(given).encode()
    batch = task.read(Payload(media_type=JSON, body=body), signature, Limits())
    told = task.write({"y": np.array(outputs, np.float32)}, batch, signature, "m:1")
    return batch.arrays["features"], json.loads(told.body)


@pytest.mark.parametrize("wrap", [lambda t: {"table": t}, lambda t: {"inputs": {"data": t}}])
def test_a_table_of_columns_is_answered_by_one_prediction_a_row(
    tmp_path: Path, wrap: Callable[[Any], Any]
) -> None:
    table = {"age": ["60", None], "job": ["pilot", "poet"], "height": ["1.8", 1.7]}
    features, answer = ask_body(tmp_path, wrap(table), VALUE, [[1.5], [0]])
    np.testing.assert_allclose(features, [[2, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0]], atol=1e-6)
    assert answer == [1150.0, 1000.0]
    _, answer = ask_body(tmp_path, wrap(table), CLASSES, [[9, 0, 0], [0, 0, 9]])
    assert answer == ["low", "high"]
    numbered = msgspec.structs.replace(CLASSES, labels=("5", "6", "7"))
    _, answer = ask_body(tmp_path, wrap(table), numbered, [[9, 0, 0], [0, 0, 9]])
    # The JavaScript client reads numbers only, the other one texts as they are.
    assert answer == (["5", "7"] if "table" in wrap(table) else [5, 7])
    for wrong, told in (
        ({**table, "age": ["60"]}, "one length"),
        ({"age": [], "job": [], "height": []}, "not 0"),
        ({**table, "age": "60"}, "list of cells" if "table" in wrap({}) else "."),
        ({**table, "age": ["60", "old"]}, "'old'"),
    ):
        with pytest.raises(InvalidInput, match=told):
            ask_body(tmp_path, wrap(wrong), VALUE, [[0], [0]])


@pytest.mark.parametrize("body", [{}, {"inputs": [{}], "table": {"age": [1]}}, {"inputs": None}])
def test_rows_come_in_one_way(tmp_path: Path, body: Any) -> None:
    with pytest.raises(InvalidInput, match="either inputs or table"):
        ask_body(tmp_path, body, VALUE, [[0]])


def test_rows_become_features_and_values_come_in_the_targets_units(tmp_path: Path) -> None:
    rows = [
        {"age": 60, "job": "pilot", "height": 1.8},
        {"age": None, "job": "poet", "height": None},
        {"height": "1.7", "job": " nurse ", "age": " 40 ", "pay": 3, "id": "x"},
    ]
    features, answer = ask(tmp_path, rows, VALUE, [[1.5], [0], [-2]])
    np.testing.assert_allclose(
        features, [[2, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]], atol=1e-6
    )
    assert answer == [{"value": 1150.0}, {"value": 1000.0}, {"value": 800.0}]


def test_a_classifier_answers_scores_best_first(tmp_path: Path) -> None:
    row = {"age": 60, "job": None, "height": 1}
    _, answer = ask(tmp_path, row, CLASSES, [[0, 2, 1]])
    assert [each["label"] for each in answer] == ["mid", "high", "low"]
    assert sum(each["score"] for each in answer) == pytest.approx(1)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"age": 1, "job": "x"}, r"inputs\[0\]: lacks 'height'"),
        ({"age": 1, "job": "x", "height": 1, "size": 2}, "unknown column 'size'"),
        ({"age": "old", "job": "x", "height": 1}, "'age' must be a number or null; received 'old'"),
        ({"age": True, "job": "x", "height": 1}, "'age' must be a number"),
        ({"age": 1, "job": ["x"], "height": 1}, "'job' must be a text, number or null"),
        ([1, 2, 3], "must be an object; received int"),
    ],
)
def test_a_bad_row_is_told(tmp_path: Path, row: Any, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        ask(tmp_path, row, CLASSES, [[0, 0, 0]])


def test_what_is_fitted() -> None:
    number = fit_number("n", np.array([1.0, 3.0, np.nan]))
    assert number == Number(name="n", mean=2.0, std=1.0, missing=True)
    assert fit_number("n", np.array([7.0, 7.0])).std == 1.0
    names = [*("a" * 3), *("b" * 2), None, *(str(i) for i in range(100, 200))]
    column = fit_category("c", names)
    assert column.values[:3] == ("a", "b", "100")
    assert (len(column.values), column.width("dense"), column.width("trees")) == (102, 65, 1)
    dense = column.features(["a", "199", None, "new"], "dense")
    np.testing.assert_array_equal(dense.argmax(1), [0, 64, 64, 64])
    trees = column.features(["a", "199", None, "new"], "trees")
    np.testing.assert_array_equal(trees[:, 0], [0, 101, 103, 102])
    assert [category(v) for v in (True, 1, 1.0, 0.1, " x ", "", None, float("nan"))] == [
        "true", "1", "1", "0.1", "x", None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"columns": [], "target": "x"}', b'{"columns": [], "target": 1}']
)
def test_damaged_columns_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "columns.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"columns\.json"):
        tasks.get("tabular").bind(tmp_path)


def test_signatures_of_other_models_are_refused() -> None:
    task = tasks.get("tabular")
    for change in (
        {"labels": ("a", "b")},
        {"labels": ("a", "a", "b")},
        {"outputs_are": None},
        {"labels": None, "outputs_are": None},
    ):
        with pytest.raises(InvalidInput):
            task.check_signature(msgspec.structs.replace(CLASSES, **change))
