"""The kit that every task passes whose models are encoder-decoders that read texts.

A new one is tested by adding an example to `sequence_examples.EXAMPLES`.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.runtime.sequence.calls import SequenceCall, SequenceResult
from lmaas.types import JSON, TENSORS, Payload, Signature
from sequence_examples import EXAMPLES, SIGNATURE, Example, answered, payload, served


@pytest.fixture(params=EXAMPLES, ids=lambda example: example.task)
def example(request: pytest.FixtureRequest) -> Example:
    assert isinstance(request.param, Example)
    return request.param


@pytest.fixture
def task(example: Example, tmp_path: Path) -> Any:
    return tasks.get(example.task).bind(served(tmp_path))


def test_a_signature_is_checked(example: Example, task: Any) -> None:
    once = task.check_signature(SIGNATURE)
    assert task.check_signature(once) == once
    assert msgspec.json.decode(msgspec.json.encode(once), type=Signature) == once
    assert SIGNATURE.sequence is not None
    for other in (
        msgspec.structs.replace(SIGNATURE, sequence=None),
        msgspec.structs.replace(
            SIGNATURE, sequence=msgspec.structs.replace(SIGNATURE.sequence, source="audio")
        ),
        msgspec.structs.replace(SIGNATURE, labels=("a", "b")),
    ):
        with pytest.raises(InvalidInput):
            task.check_signature(other)


@pytest.mark.parametrize("inputs", ["Some words here.", ["Some words.", "Others."]])
def test_texts_are_answered(example: Example, task: Any, inputs: Any) -> None:
    answer, calls = answered(task.converse(payload(inputs), SIGNATURE, Limits()))
    told = json.loads(answer.body)
    texts = [inputs] if isinstance(inputs, str) else inputs
    assert [each[example.answer] for each in told] == texts
    assert answer.tokens == sum(len(call.source) for call in calls)
    assert answer.new_tokens == answer.tokens - len(calls)


def test_only_counting_asks_for_nothing(example: Example, task: Any) -> None:
    call = payload("Some words here.")
    answer, _ = answered(task.converse(call, SIGNATURE, Limits()))
    counting = msgspec.structs.replace(call, count_only=True)
    counted, calls = answered(task.converse(counting, SIGNATURE, Limits()))
    assert not calls
    assert counted.body == b""
    assert counted.tokens == answer.tokens


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": []}',
        b'{"inputs": ""}',
        b'{"inputs": [1]}',
        b'{"inputs": "a", "paramters": {}}',
        b'{"inputs": "a", "parameters": {"unknown": 1}}',
        b'{"inputs": "a", "parameters": {"generate_parameters": {"unknown": 1}}}',
        b'{"inputs": "a", "parameters": {"generate_parameters": {"num_beams": 0}}}',
        b'{"inputs": "a", "parameters": {"truncation": "only_first"}}',
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_bad_body_is_an_error_for_the_caller(example: Example, task: Any, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        answered(task.converse(Payload(body=body, media_type=JSON), SIGNATURE, Limits()))


@pytest.mark.parametrize("kind", ["image/png", TENSORS, None])
def test_what_is_no_json_is_refused(example: Example, task: Any, kind: str | None) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(24)
    with pytest.raises(InvalidInput, match="text"):
        answered(task.converse(Payload(body=png, media_type=kind), SIGNATURE, Limits()))
    with pytest.raises(InvalidInput):
        task.read(Payload(body=b"{}", media_type=TENSORS), SIGNATURE, Limits())


def test_special_tokens_that_a_text_spells_are_text(example: Example, task: Any) -> None:
    text = "</s> is <pad> or <unk>"
    answer, calls = answered(task.converse(payload(text), SIGNATURE, Limits()))
    assert json.loads(answer.body)[0][example.answer] == text
    assert all(min(call.source[:-1]) > 3 for call in calls)


def test_an_error_of_one_sequence_is_the_request_s(example: Example, task: Any) -> None:
    def fails(call: SequenceCall) -> SequenceResult:
        return SequenceResult(tag=call.tag, error=LMaaSError("broken"))

    with pytest.raises(LMaaSError, match="broken"):
        answered(task.converse(payload(["a", "b"]), SIGNATURE, Limits()), fails)


def test_rows_become_a_call_and_new_columns(example: Example, task: Any, tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    inputs = task.collect(rows, tmp_path)
    answer, _ = answered(task.converse(payload(inputs), SIGNATURE, Limits()))
    told = json.loads(answer.body)
    assert [each[example.column] for each in task.records(told)] == ["one", "two"]
    assert [row[-1] for row in task.shown(told).rows] == ["one", "two"]
    with pytest.raises(InvalidInput, match=r"inputs\[1\]"):
        task.collect([{"text": "one"}, {"text": None}], tmp_path)
