"""Conversations with an engine: what they ask for, are told, and how they end."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import Delta, Usage
from lmaas.runtime.sequence.calls import (
    Conversation,
    Decoding,
    SequenceCall,
    SequencePiece,
    SequenceResult,
    Turn,
    Written,
)
from lmaas.runtime.sequence.engine import Output
from lmaas.runtime.sequence.session import Session, Told
from lmaas.types import Answer

HOW = Decoding(prompt=(1,), max_tokens=9)


class Scripted:
    """An engine that writes the tokens 5 and 6 of every sequence, one a step."""

    def __init__(self) -> None:
        self.calls: dict[int, SequenceCall] = {}
        self.written: dict[int, int] = {}
        self.cancelled: list[int] = []

    def add(self, sequence: int, call: SequenceCall) -> None:
        if call.tag == "bad":
            raise InvalidInput("no such source")
        self.calls[sequence] = call
        self.written[sequence] = 0

    def step(self) -> list[Output]:
        outputs = []
        for number, call in list(self.calls.items()):
            self.written[number] += 1
            tokens = (4 + self.written[number],) if call.stream else ()
            result = None
            if self.written[number] == 2:
                best = Written(tokens=(5, 6), finish="stop", logprob=-1.0)
                result = SequenceResult(tag=call.tag, candidates=(best,), source_tokens=3)
                del self.calls[number]
            outputs.append(Output(sequence=number, tokens=tokens, result=result))
        return outputs

    def cancel(self, sequence: int) -> None:
        self.cancelled.append(sequence)
        self.calls.pop(sequence, None)

    def busy(self) -> bool:
        return bool(self.calls)


def call(tag: Any, *, stream: bool = False) -> SequenceCall:
    return SequenceCall(tag=tag, source=np.array([1]), decoding=HOW, stream=stream)


def begin(session: Session, id_: int, conversation: Conversation) -> Told:
    return session.begin(id_, conversation, next(conversation))


def made() -> tuple[Session, Scripted]:
    engine = Scripted()
    return Session(engine), engine  # type: ignore[arg-type]


def test_turns_follow_each_other_until_the_answer() -> None:
    heard: list[Any] = []

    def talk() -> Conversation:
        for turn in range(2):
            event = yield Turn(calls=[call((turn, n)) for n in range(2)])
            while True:
                heard.append(event)
                if len(heard) % 2 == 0:
                    break
                event = yield Turn()
        return Answer(body=b"end")

    session, _ = made()
    assert begin(session, 7, talk()) == Told()
    told = [session.step() for _ in range(4)]
    assert [each.began for each in told] == [[(7, 0)], [], [], []]
    assert told[3].done == [(7, Answer(body=b"end"))]
    assert [event.tag for event in heard] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not len(session)


def test_pieces_are_sent_as_they_come() -> None:
    def talk() -> Conversation:
        pieces: Sequence[Delta] = [Delta(0, "head ")]
        calls = [call("a", stream=True)]
        while True:
            event = yield Turn(calls=calls, pieces=pieces)
            calls, pieces = [], []
            if isinstance(event, SequencePiece):
                pieces = [Delta(0, f"{event.tokens[0]} ", 1)]
            else:
                assert isinstance(event, SequenceResult)
                yield Turn(pieces=[Delta(0, "tail")])
                return Answer(body=b"")

    session, _ = made()
    first = begin(session, 1, talk())
    assert first.began == [(1, 0)]
    texts = [delta.text for _, delta in first.parts]
    told = [session.step() for _ in range(2)]
    texts += [delta.text for each in told for _, delta in each.parts]
    assert texts == ["head ", "5 ", "6 ", "tail"]
    assert told[1].done == [(1, Answer(body=b""))]


def test_an_error_ends_one_conversation_and_its_sequences_alone() -> None:
    def fails() -> Conversation:
        yield Turn(calls=[call(0), call(1)])
        raise InvalidInput("the text is bad")

    def asks_badly() -> Conversation:
        yield Turn(calls=[call(0), call("bad")])
        raise AssertionError

    def works() -> Conversation:
        yield Turn(calls=[call(0)])
        return Answer(body=b"good")

    session, engine = made()
    begin(session, 1, fails())
    refused = begin(session, 2, asks_badly())
    begin(session, 3, works())
    assert [(id_, str(error)) for id_, error in refused.failed] == [(2, "no such source")]
    session.step()
    told = session.step()
    assert [(id_, str(error)) for id_, error in told.failed] == [(1, "the text is bad")]
    assert told.done == [(3, Answer(body=b"good"))]
    assert not engine.busy()


def test_cancelling_closes_the_conversation_and_tells_what_was_used() -> None:
    closed: list[bool] = []

    def talk() -> Conversation:
        try:
            yield Turn(calls=[call("a", stream=True), call("b")])
            while True:
                yield Turn()
        finally:
            closed.append(True)

    session, engine = made()
    begin(session, 1, talk())
    session.step()
    ended = session.cancel(1)
    assert ended is not None
    assert ended.usage == Usage(0, 1)
    assert (closed, sorted(engine.cancelled)) == ([True], [0, 1])
    assert session.cancel(1) is None
    assert session.step() == Told()


def test_a_conversation_that_asks_for_nothing_ends_in_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def talk() -> Conversation:
        while True:
            yield Turn()

    monkeypatch.setattr("lmaas.runtime.sequence.session.MOST_EMPTY_TURNS", 10)
    session, _ = made()
    ((id_, error),) = begin(session, 1, talk()).failed
    assert id_ == 1
    assert isinstance(error, LMaaSError)
    assert not len(session)
