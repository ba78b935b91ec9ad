"""A worker of an encoder-decoder on its socket: reading, writing, cancelling, stopping."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas import tasks
from lmaas.frameworks import checkpoint
from lmaas.generation_types import Delta, Usage
from lmaas.runtime.engine import ENGINES
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.messages import (
    AnyMessage,
    Beat,
    Began,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Failed,
    Finished,
    Loaded,
    Parts,
    ServeRecord,
    Stop,
    encode,
)
from lmaas.runtime.sequence.calls import Decoding, SequenceCall, SequencePiece, SequenceResult, Turn
from lmaas.runtime.sequence.worker import SequenceWorker
from lmaas.types import JSON, Answer, Payload, PushOptions
from sequence_checkpoints import END, START, make


class Spelling:
    """A task that sends each token as a piece; a request waits to be read for as long as asked."""

    def bind(self, folder: Path) -> "Spelling":
        return self

    def converse(self, payload: Payload, signature: Any, limits: Any) -> Any:
        asked = json.loads(payload.body)
        time.sleep(asked.get("reading_s", 0))
        how = Decoding(prompt=(START,), max_tokens=asked["most"], stop_token_ids=(END,))
        source = np.array(asked["source"], np.int64)
        event = yield Turn(calls=[SequenceCall(tag=0, source=source, decoding=how, stream=True)])
        while True:
            if isinstance(event, SequencePiece):
                event = yield Turn(pieces=[Delta(0, f"{event.tokens[0]} ", 1)])
            else:
                assert isinstance(event, SequenceResult)
                body = json.dumps(event.candidates[0].tokens).encode()
                return Answer(body=body, tokens=event.source_tokens)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    make("marian", folder / "checkpoint")
    checkpoint.build(
        folder / "checkpoint", folder / "package", PushOptions(name="m", task="summarization")
    )
    return folder / "package"


class Worker:
    """A worker in a thread, and our end of its socket."""

    def __init__(self, package: Path, folder: Path) -> None:
        import msgspec

        from lmaas.types import Manifest

        manifest = msgspec.json.decode((package / "manifest.json").read_bytes(), type=Manifest)
        record = ServeRecord(
            model="m:1", task="summarization", signature=manifest.signature,
            folder=str(package / "compiled"), precision="f32", reason="test", max_batch_size=8,
            engine=ENGINES["encoder-decoder"],
            options=EngineOptions(precision="f32", threads=1, cache_bytes=1 << 30),
        )  # fmt: skip
        self.sock, theirs = socket.socketpair()
        self.decoder = Decoder()
        self.ready: list[AnyMessage] = []
        expected = Expect(record=record, heartbeat_s=60, request_timeout_s=60)
        self.theirs = theirs
        with (folder / "journal").open("w+b") as noted:
            self.worker = SequenceWorker(theirs, expected, noted)
        self.worker.load()
        assert isinstance(self.receive(), Loaded)
        self.thread = threading.Thread(target=self.worker.serve, args=(Decoder(),))
        self.thread.start()

    def send(self, *messages: AnyMessage) -> None:
        self.sock.sendall(b"".join(encode(message) for message in messages))

    def receive(self) -> AnyMessage:
        while True:
            while not self.ready:
                data = self.sock.recv(1 << 16)
                assert data
                self.ready = self.decoder.feed(data)
            message = self.ready.pop(0)
            if not isinstance(message, Beat):
                return message

    def until_done(self, id_: int) -> list[AnyMessage]:
        messages = [self.receive()]
        while not (isinstance(messages[-1], Done | Failed) and messages[-1].id == id_):
            messages.append(self.receive())
        return messages


@pytest.fixture
def worker(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(tasks, "get", lambda name: Spelling())
    # It ends the process of a worker whose server is gone, and here that is the test's.
    monkeypatch.setattr("lmaas.runtime.heartbeat.Heartbeat.start", lambda _: None)
    this = Worker(package, tmp_path)
    yield this
    this.sock.shutdown(socket.SHUT_RDWR)
    this.thread.join(30)
    assert not this.thread.is_alive()
    this.worker.close()
    this.sock.close()
    this.theirs.close()


def ask(id_: int, source: list[int], most: int = 20, reading_s: float = 0) -> Call:
    body = {"source": source, "most": most, "reading_s": reading_s}
    return Call(id=id_, payload=Payload(media_type=JSON, body=json.dumps(body).encode()))


def texts(messages: list[AnyMessage], id_: int) -> str:
    parts = [each for each in messages if isinstance(each, Parts)]
    return "".join(delta.text for part in parts for one, delta in part.items if one == id_)


def test_two_callers_are_written_together_and_told_each_token(worker: Worker) -> None:
    worker.send(ask(1, [9, 10, END]))
    alone = worker.until_done(1)
    assert alone[0] == Began(id=1, prompt=0)
    assert isinstance(alone[-1], Done)
    tokens = json.loads(alone[-1].answer.body)
    assert texts(alone, 1).split() == [str(token) for token in tokens]
    worker.send(ask(2, [9, 10, END], 40), ask(3, [9, 10, END]), ask(4, [11, END], 3, 0.01))
    messages = worker.until_done(2)
    assert any(
        isinstance(each, Parts) and {2, 3} <= {id_ for id_, _ in each.items} for each in messages
    )
    (third,) = [each for each in messages if isinstance(each, Done) and each.id == 3]
    assert json.loads(third.answer.body) == tokens
    assert texts(messages, 3).split() == [str(token) for token in tokens]


def test_cancelled_ones_are_told_as_finished_read_or_not(worker: Worker) -> None:
    worker.send(ask(1, [9, 10, END], 60), ask(2, [9, END], 60, reading_s=0.5))
    assert worker.receive() == Began(id=1, prompt=0)
    worker.send(Cancel(id=1), Cancel(id=2), Cancel(id=77))
    ended: dict[int, Usage] = {}
    while len(ended) < 2:
        message = worker.receive()
        if isinstance(message, Finished):
            ended[message.id] = message.ended.usage
    assert ended[2] == Usage(0)
    assert 0 < ended[1].completion < 60
    worker.send(ask(3, [9, END], 5))
    assert isinstance(worker.until_done(3)[-1], Done)


def test_a_bad_request_fails_alone_and_stopping_waits(worker: Worker) -> None:
    worker.send(ask(1, [5000]), ask(2, [9, END], 60), ask(3, [9, END], 5, reading_s=0.2))
    worker.send(Stop(deadline_s=30))
    seen: dict[int, AnyMessage] = {}
    while len(seen) < 3:
        message = worker.receive()
        if isinstance(message, Done | Failed):
            assert message.id is not None
            seen[message.id] = message
    assert isinstance(seen[1], Failed)
    assert "outside the vocabulary" in seen[1].message
    assert isinstance(seen[2], Done)
    assert isinstance(seen[3], Done)
    worker.thread.join(30)
    assert not worker.thread.is_alive()
