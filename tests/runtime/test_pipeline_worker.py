"""A pipeline's worker between engines that wait for each other, so that nothing depends on time."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.runtime.engine import ENGINES
from lmaas.runtime.engine_spec import EngineMemory, EngineSpec
from lmaas.runtime.journal import read_journal
from lmaas.runtime.messages import (
    AnyMessage,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Failed,
    Loaded,
    ServedPart,
    ServeRecord,
    Stop,
    encode,
)
from lmaas.runtime.pipeline.worker import MOST_BEGUN, PipelineWorker
from lmaas.tasks.base import Batch, Tensors
from lmaas.tasks.pipelines import BoundPart, Conversation, Run
from lmaas.types import Answer, Payload, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),),
)
PATIENCE_S = 20


class Gate:
    """What the engine of a part does: it may be held, and remembers what it ran."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.ran: list[list[float]] = []
        self.cancelled = threading.Event()


class Gated:
    """y = x + 1, through a gate; it fails on negative numbers."""

    gates: ClassVar[Mapping[str, Gate]] = {}

    def __init__(self) -> None:
        self._gate = Gate()

    def warm(self) -> None:
        """Nothing to import."""

    def load(self, folder: Path, *_: Any) -> None:
        self._gate = self.gates[folder.name]

    def infer(self, arrays: Tensors) -> Tensors:
        gate = self._gate
        gate.ran.append(arrays["x"][:, 0].tolist())
        gate.entered.release()
        assert gate.open.wait(PATIENCE_S)
        if gate.cancelled.is_set():
            gate.cancelled.clear()
            raise InvalidInput("The run was cancelled.")
        if (arrays["x"] < 0).any():
            raise InvalidInput("A number is below 0.")
        return {"y": arrays["x"] + 1}

    def cancel(self) -> None:
        self._gate.cancelled.set()
        self._gate.open.set()

    def close(self) -> None:
        """Nothing is held."""


class TwoSteps:
    """Numbers through the parts `first` and `second`; what goes wrong with `second` is told."""

    spec = None
    opened: ClassVar[list[int]] = []

    def bind(self, folder: Path) -> "TwoSteps":
        return self

    def __getattr__(self, name: str) -> Any:
        return self.converse  # a task has more verbs, none of which is used here

    def converse(
        self,
        payload: Payload,
        parts: Mapping[str, BoundPart],
        signature: Signature,
        limits: Limits,
    ) -> Conversation:
        call = json.loads(payload.body)
        self.opened.append(call["rows"][0])
        assert set(parts) == {"first", "second"}
        rows = np.array([[value, 0] for value in call["rows"]], np.float32)
        if call.get("several"):
            some = tuple(Batch(arrays={"x": row[None]}, size=1) for row in rows)
            outputs = yield Run(part="first", batch=Batch(arrays={}, size=len(rows), parts=some))
        else:
            outputs = yield Run(part="first", batch=Batch(arrays={"x": rows}, size=len(rows)))
        between = outputs["y"] * call.get("times", 1)
        try:
            outputs = yield Run(part="second", batch=Batch(arrays={"x": between}, size=len(rows)))
        except InvalidInput as error:
            if not call.get("forgiving"):
                raise
            return Answer(body=msgspec.json.encode([error.message]))
        return Answer(body=msgspec.json.encode(outputs["y"][:, 0].tolist()))


class Served:
    """A worker in a thread, and the server's end of its socket."""

    def __init__(self, folder: Path, parts: tuple[str, ...] = ("first", "second")) -> None:
        self.sock, self.theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE_S)
        self.journal = folder / "journal"
        self.noted = self.journal.open("w+b")
        self.folder = folder
        self.parts = parts

    def start(self) -> None:
        """Load the parts and serve them."""
        folder = self.folder
        served = tuple(
            ServedPart(
                role=role,
                model=f"{role}:1",
                task="two-steps",
                signature=SIGNATURE,
                folder=str(folder / role),
                precision="f32",
                engine=ENGINES["gated"],
            )
            for role in self.parts
        )
        record = ServeRecord(
            model="p:1",
            task="two-steps",
            signature=SIGNATURE,
            folder=str(folder),
            precision="f32",
            reason="test",
            max_batch_size=8,
            engine=ENGINES["pipeline"],
            parts=served,
        )
        expected = Expect(record=record, heartbeat_s=0.05, request_timeout_s=60)
        self.worker = PipelineWorker(self.theirs, expected, self.noted)
        self.worker.warm()
        self.worker.load()
        self.decoder = Decoder()
        self.ready: list[AnyMessage] = []
        assert isinstance(self.receive(), Loaded)
        self.thread = threading.Thread(target=self.worker.serve, args=(Decoder(),), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.sock.close()
        self.theirs.close()
        self.noted.close()

    def send(self, *messages: AnyMessage) -> None:
        self.sock.sendall(b"".join(map(encode, messages)))

    def ask(self, id_: int, *rows: float, **more: Any) -> None:
        body = json.dumps({"rows": rows, **more}).encode()
        self.send(Call(id=id_, payload=Payload(body=body)))

    def receive(self) -> AnyMessage:
        """The next message."""
        while not self.ready:
            data = self.sock.recv(1 << 16)
            assert data, "the worker hung up"
            self.ready = self.decoder.feed(data)
        return self.ready.pop(0)

    def answers(self, count: int) -> dict[int, Any]:
        """The answers or error texts of the next `count` requests, by id."""
        told: dict[int, Any] = {}
        for _ in range(count):
            message = self.receive()
            if isinstance(message, Done):
                told[message.id] = json.loads(message.answer.body)
            else:
                assert isinstance(message, Failed)
                assert message.id is not None
                told[message.id] = message.message
        return told


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> dict[str, Gate]:
    found = {"first": Gate(), "second": Gate()}
    monkeypatch.setattr(Gated, "gates", found)
    spec = EngineSpec(
        name="gated",
        made_by=f"{__name__}:Gated",
        files="compiled",
        memory=EngineMemory(overhead_bytes=0),
    )
    monkeypatch.setitem(ENGINES, "gated", spec)
    monkeypatch.setattr("lmaas.tasks.get", lambda _: TwoSteps())
    monkeypatch.setattr(TwoSteps, "opened", [])
    # It ends the process of a worker whose server is gone, and here that is the test's.
    monkeypatch.setattr("lmaas.runtime.heartbeat.Heartbeat.start", lambda _: None)
    # Batches get small where rows take long, and here they are held.
    monkeypatch.setattr("lmaas.runtime.batching.TARGET_BATCH_S", 3600)
    return found


@pytest.fixture
def served(gates: dict[str, Gate], tmp_path: Path) -> Iterator[Served]:
    with closing(Served(tmp_path)) as this:
        this.start()
        yield this
        for gate in gates.values():
            gate.open.set()
        this.sock.close()
        this.thread.join(PATIENCE_S)
        assert not this.thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    pause = threading.Event()
    for _ in range(PATIENCE_S * 200):
        if true():
            return
        pause.wait(0.005)
    raise AssertionError("It did not come about.")


def test_each_request_is_answered_or_fails_alone(served: Served) -> None:
    served.ask(1, 1, 2)
    served.ask(2, -5)  # the first part refuses it
    served.ask(3, 0, times=-1)  # the second one does
    served.ask(4, 0, times=-1, forgiving=True)
    served.send(Call(id=5, payload=Payload(body=b"no JSON")))
    served.ask(6, 7)
    told = served.answers(6)
    assert told[1] == [3, 4]
    assert told[6] == [9]
    assert told[2] == told[3] == "A number is below 0."
    assert told[4] == ["A number is below 0."]
    assert "JSON" in told[5]


def test_parts_overlap(served: Served, gates: dict[str, Gate]) -> None:
    """While one request is in the second part the next one is in the first: they meet there."""
    gates["second"].open.clear()
    served.ask(1, 1)
    assert gates["second"].entered.acquire(timeout=PATIENCE_S)
    served.ask(2, 2)
    assert gates["first"].entered.acquire(timeout=PATIENCE_S)
    assert gates["first"].entered.acquire(timeout=PATIENCE_S)  # of request 2, beside the other
    assert read_journal(served.journal) >= {1}
    gates["second"].open.set()
    assert served.answers(2) == {1: [3], 2: [4]}


def test_rows_that_wait_for_a_part_run_together(served: Served, gates: dict[str, Gate]) -> None:
    gates["second"].open.clear()
    served.ask(1, 10)
    assert gates["second"].entered.acquire(timeout=PATIENCE_S)
    for id_ in (2, 3, 4):
        served.ask(id_, id_, id_ + 0.5)
    until(lambda: sum(map(len, gates["first"].ran)) == 7)
    until(lambda: len(served.worker._stations["second"]) == 3)
    gates["second"].open.set()
    told = served.answers(4)
    assert told == {1: [12], 2: [4, 4.5], 3: [5, 5.5], 4: [6, 6.5]}
    assert [len(rows) for rows in gates["second"].ran] == [1, 6]


def test_batches_of_a_request_run_one_after_another(served: Served, gates: dict[str, Gate]) -> None:
    served.ask(1, 1, 2, 3, several=True)
    assert served.answers(1) == {1: [3, 4, 5]}
    assert [len(rows) for rows in gates["first"].ran] == [1, 1, 1]
    assert gates["second"].ran == [[2, 3, 4]]


def test_few_requests_are_begun_and_all_are_answered(
    served: Served, gates: dict[str, Gate]
) -> None:
    """Those that are begun hold their images; the others wait as they came."""
    gates["first"].open.clear()
    count = 3 * MOST_BEGUN
    for id_ in range(count):
        served.ask(id_, id_)
    until(lambda: len(TwoSteps.opened) == MOST_BEGUN)
    beat = served.worker._heartbeat
    until(lambda: beat.queued + beat.running == count)
    assert len(TwoSteps.opened) == MOST_BEGUN
    gates["first"].open.set()
    assert served.answers(count) == {id_: [id_ + 2] for id_ in range(count)}


def test_what_is_cancelled_makes_room(served: Served, gates: dict[str, Gate]) -> None:
    """In a part's engine, waiting for a part, and not yet begun."""
    gates["first"].open.clear()
    served.ask(0, 0)
    assert gates["first"].entered.acquire(timeout=PATIENCE_S)
    for id_ in range(1, 2 * MOST_BEGUN):
        served.ask(id_, id_)
    until(lambda: len(TwoSteps.opened) == MOST_BEGUN)
    until(lambda: len(served.worker._stations["first"]) == MOST_BEGUN - 1)
    waiting = MOST_BEGUN // 2
    never = 2 * MOST_BEGUN - 1
    served.send(Cancel(id=waiting), Cancel(id=never))
    until(lambda: len(TwoSteps.opened) == MOST_BEGUN + 1)  # the next one took its place
    served.send(Cancel(id=0))  # alone in the engine: its run is broken off
    told = served.answers(2 * MOST_BEGUN - 3)
    assert set(told) == set(range(1, 2 * MOST_BEGUN)) - {waiting, never}
    assert all(told[id_] == [id_ + 2] for id_ in told)
    assert never not in TwoSteps.opened
    assert waiting not in [row for rows in gates["first"].ran for row in rows]
    until(lambda: not served.worker._begun)
    assert read_journal(served.journal) == set()


def test_a_worker_that_is_to_stop_answers_what_is_there(
    served: Served, gates: dict[str, Gate]
) -> None:
    gates["second"].open.clear()
    served.ask(1, 1)
    assert gates["second"].entered.acquire(timeout=PATIENCE_S)
    served.send(Stop(deadline_s=60))
    gates["second"].open.set()
    assert served.answers(1) == {1: [3]}
    served.thread.join(PATIENCE_S)
    assert not served.thread.is_alive()


def test_a_pipeline_needs_parts(gates: dict[str, Gate], tmp_path: Path) -> None:
    with (
        closing(Served(tmp_path, parts=())) as served,
        pytest.raises(InvalidInput, match="is no pipeline"),
    ):
        served.start()
