"""Rows of a file through a model: batches, places of errors, columns, and files that are whole."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmaas import tasks
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.predictions import fields_of, kind_of, predict_rows, written
from lmaas.types import Answer, Payload


class Model:
    """Answers every call by a function of its inputs, and remembers them."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.calls: list[Any] = []
        self._answer = answer

    def __call__(self, payload: Payload) -> Answer:
        inputs = json.loads(payload.body)["inputs"]
        self.calls.append(inputs)
        return Answer(body=json.dumps(self._answer(inputs)).encode())


def lengths(texts: list[str]) -> Any:
    return [[{"label": str(len(text)), "score": 1.0}] for text in texts]


def run(path: Path, task: str, model: Model, out: str = "out.jsonl", **more: Any) -> list[Any]:
    target = path.with_name(out)
    kind = kind_of(target)
    assert kind is not None
    with written(target, kind, io.StringIO(), path) as writer:
        predict_rows(path, tasks.get(task), model, writer, **more)
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_rows_go_in_batches_and_come_out_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "".join(f"{'x' * (i % 9 + 1)}\n" for i in range(200)))
    model, heard = Model(lengths), list[int]()
    told = run(path, "text-classification", model, told=heard.append)
    assert [len(call) for call in model.calls] == [64, 64, 64, 8]
    assert heard == [64, 128, 192, 200]
    assert [row["prediction"] for row in told] == [str(i % 9 + 1) for i in range(200)]


def test_documents_of_one_query_are_one_call(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("query\tdocument\n" + "".join(f"{q}\td{i}\n" for q in "ab" for i in range(3)))
    model = Model(
        lambda inputs: [
            {"index": i, "score": i / 10} for i in reversed(range(len(inputs["documents"])))
        ]
    )
    told = run(path, "text-ranking", model)
    assert [(call["query"], len(call["documents"])) for call in model.calls] == [("a", 3), ("b", 3)]
    assert [row["score"] for row in told] == [0.0, 0.1, 0.2] * 2


def test_a_batch_that_is_too_large_is_sent_in_halves(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "".join(f"{i}\n" for i in range(7)))

    def few(texts: list[str]) -> Any:
        if len(texts) > 2:
            raise PayloadTooLarge("too many")
        return lengths(texts)

    assert len(run(path, "text-classification", Model(few))) == 7

    def none(texts: list[str]) -> Any:
        raise PayloadTooLarge("a text is too long")

    with pytest.raises(PayloadTooLarge, match=r"a\.csv, line 2: a text is too long"):
        run(path, "text-classification", Model(none))


def test_an_error_names_the_line_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n{"text": null}\n')

    def second(texts: list[str]) -> Any:
        raise InvalidInput("inputs[1] has 9 tokens.", hint="Split it.")

    with pytest.raises(InvalidInput, match=r"a\.jsonl, line 4: text must be a text"):
        run(path, "text-classification", Model(lengths))
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    with pytest.raises(InvalidInput, match=r"^a\.jsonl, line 3 has 9 tokens\. Split it\.$"):
        run(path, "text-classification", Model(second))
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"text": "a"}\n{"text": "b"\n')
    with pytest.raises(InvalidInput, match=r"a\.jsonl, line 2 is not a JSON object"):
        run(path, "text-classification", Model(lengths))


def test_columns_are_found_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prediction,body\nold,abc\n")
    model = Model(lengths)
    with pytest.raises(InvalidInput, match="no column 'text'; it has prediction, body") as caught:
        run(path, "text-classification", model)
    assert "--column text=COLUMN" in str(caught.value.hint)
    (row,) = run(path, "text-classification", model, columns=fields_of(["text=body"]))
    assert row == {"prediction": "old", "body": "abc", "prediction_": "3", "score": 1.0}
    with pytest.raises(InvalidInput, match="FIELD=COLUMN"):
        fields_of(["text"])
    with pytest.raises(InvalidInput, match="tabular has no field 'text'; it has none"):
        run(path, "tabular", model, columns={"text": "body"})
    path.write_text("anything\nabcd\n")
    (row,) = run(path, "text-classification", model)
    assert row["prediction"] == "4"


def test_a_label_is_no_formula_and_rows_of_json_fit_columns(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.csv.gz"
    path.write_text('{"text": "a", "more": [1, {"b": "ü"}]}\n{"text": "b", "more": null}\n')
    model = Model(lambda texts: [[{"label": "=cmd|' /C calc'!A0", "score": 0.5}] for _ in texts])
    with written(out, ",", io.StringIO(), path) as writer:
        predict_rows(path, tasks.get("text-classification"), model, writer)
    told = list(csv.DictReader(io.StringIO(gzip.decompress(out.read_bytes()).decode())))
    assert told[0]["prediction"] == "'=cmd|' /C calc'!A0"
    assert [row["more"] for row in told] == ['[1,{"b":"ü"}]', ""]
    path.write_text('{"text": "a"}\n{"text": "b", "late": 1}\n')
    with (
        pytest.raises(InvalidInput, match="the column 'late', which the first one has not"),
        written(tmp_path / "b.csv", ",", io.StringIO(), path) as writer,
    ):
        predict_rows(path, tasks.get("text-classification"), model, writer)
    assert not (tmp_path / "b.csv").exists()


def test_an_empty_cell_is_a_value_that_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("age,job\n,nurse\n31,\n")
    model = Model(lambda rows: [{"value": 1.0} for _ in rows])
    told = run(path, "tabular", model)
    assert model.calls == [[{"age": None, "job": "nurse"}, {"age": "31", "job": None}]]
    assert told[0] == {"age": "", "job": "nurse", "prediction": 1.0}
    path.write_text("age,job\n")
    with pytest.raises(InvalidInput, match="holds no rows"):
        run(path, "tabular", model)


def test_rows_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x\n" * 1000)
    seen = []

    class Watching:
        def write(self, row: Any, told: Any) -> None:
            seen.append(len(model.calls))

    model = Model(lengths)
    predict_rows(path, tasks.get("text-classification"), model, Watching())
    assert seen[0] == 1
    assert seen[-1] == 16
