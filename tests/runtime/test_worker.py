import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import word_tokenizer
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.placement.isolation import Confinement
from lmaas.runtime.engine import make_engine
from lmaas.runtime.engine_spec import EngineMemory, EngineSpec
from lmaas.runtime.heartbeat import resident_bytes
from lmaas.runtime.journal import RequestJournal, read_journal
from lmaas.runtime.messages import (
    AnyMessage,
    Beat,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Failed,
    Load,
    Loaded,
    ServeRecord,
    Stop,
    encode,
)
from lmaas.runtime.openvino_engine import OpenVINOEngine
from lmaas.tasks.text import PART_TOKENS
from lmaas.types import JSON, TEXTS, LanguageSpec, Payload, Signature, TensorSpec, TextsCall

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """softmax(x), as a compiled model's folder."""
    import openvino
    import openvino.opset13 as ops

    x = ops.parameter([-1, 4], np.float32)
    graph = openvino.Model([ops.result(ops.softmax(x, 1))], [x], "softmax")
    graph.inputs[0].set_names({"x"})
    graph.outputs[0].set_names({"y"})
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    return tmp_path


class Process:
    """A worker process and our end of its socket."""

    def __init__(self, folder: Path, *command: str) -> None:
        path = folder / "w.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            argv = command or ("-m", "lmaas.placement.enter")
            given = msgspec.json.encode(Confinement(reads=(str(folder),))).decode()
            rest = (str(path), str(path.with_suffix(".journal")), given)
            self.child = subprocess.Popen([sys.executable, *argv, *rest])
            self.sock, _ = listener.accept()
        self.decoder = Decoder()
        self.ready: list[AnyMessage] = []

    def send(self, *messages: AnyMessage) -> None:
        self.sock.sendall(b"".join(encode(message) for message in messages))

    def receive(self) -> AnyMessage:
        """The next message that is not a beat."""
        while True:
            while not self.ready:
                data = self.sock.recv(1 << 16)
                assert data, "the worker hung up"
                self.ready = self.decoder.feed(data)
            message = self.ready.pop(0)
            if not isinstance(message, Beat):
                return message

    def load(self, folder: Path, **changes: Any) -> AnyMessage:
        fields: dict[str, Any] = {
            "model": "m:1",
            "task": "tensor",
            "signature": SIGNATURE,
            "folder": str(folder),
            "precision": "f32",
            "reason": "test",
            "max_batch_size": 8,
        }
        record = ServeRecord(**(fields | changes))
        self.send(Expect(record=record, heartbeat_s=0.1, request_timeout_s=60), Load())
        return self.receive()


def unknown(name: str) -> EngineSpec:
    return EngineSpec(
        name=name, made_by="", files="compiled", memory=EngineMemory(overhead_bytes=0)
    )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    this = Process(tmp_path)
    yield this
    this.sock.close()
    this.child.wait(30)


def call(id_: int, inputs: Any) -> Call:
    return Call(
        id=id_, payload=Payload(media_type=JSON, body=json.dumps({"inputs": inputs}).encode())
    )


def test_worker_answers_and_fails_each_request_alone(process: Process, model: Path) -> None:
    loaded = process.load(model)
    assert isinstance(loaded, Loaded)
    assert loaded.memory_bytes > 0
    process.send(call(1, [[0, 0, 0, 0]]), call(2, "bad"), call(3, [0, 0, 0, 0]))
    answers: dict[int | None, AnyMessage] = {}
    while len(answers) < 3:
        message = process.receive()
        assert isinstance(message, Done | Failed)
        answers[message.id] = message
    for id_, expected in ((1, [[0.25] * 4]), (3, [0.25] * 4)):
        done = answers[id_]
        assert isinstance(done, Done)
        assert json.loads(done.answer.body) == {"outputs": {"y": expected}}
    failed = answers[2]
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_input"


def test_worker_ends_when_the_server_hangs_up(process: Process, model: Path) -> None:
    process.load(model)
    process.sock.close()
    assert process.child.wait(30) == 0


def test_worker_finishes_what_is_there_before_it_stops(process: Process, model: Path) -> None:
    process.load(model)
    process.send(call(1, [[0, 0, 0, 0]]), Stop(deadline_s=30))
    assert isinstance(process.receive(), Done)
    assert process.child.wait(30) == 0


def test_cancelled_request_is_not_answered(process: Process, model: Path) -> None:
    process.load(model)
    process.send(call(1, [[0, 0, 0, 0]] * 2000), Cancel(id=1), call(2, [[0, 0, 0, 0]]))
    message = process.receive()
    assert isinstance(message, Done)
    assert message.id == 2


GATED = """
import socket, sys, time
import numpy as np
from lmaas.runtime import engine, worker

class Gated:
    \"\"\"Notes the rows of each call; the first lasts until it is cancelled.\"\"\"

    def __init__(self):
        self.cancelled = False

    def warm(self):
        pass

    def load(self, folder, *rest):
        self.notes = folder / "calls"

    def infer(self, arrays):
        rows = len(arrays["input_ids"])
        with self.notes.open("a") as notes:
            notes.write(f"{rows} ")
        while not self.cancelled:
            time.sleep(0.005)
        return {"embedding": np.ones((rows, 4), np.float32)}

    def cancel(self):
        self.cancelled = True

    def close(self):
        pass

engine.ENGINES["gated"] = engine.EngineSpec(
    name="gated",
    made_by="__main__:Gated",
    files="compiled",
    memory=engine.EngineMemory(overhead_bytes=0),
)
given = socket.socket(socket.AF_UNIX)
given.connect(sys.argv[1])
sys.exit(worker.main(given, open(sys.argv[2], "w+b")))
"""


def texts(id_: int, count: int, tokens: int) -> Call:
    given = TextsCall(texts=((4,) * tokens,) * count)
    return Call(id=id_, payload=Payload(media_type=TEXTS, body=msgspec.msgpack.encode(given)))


def test_parts_of_a_cancelled_request_that_wait_do_not_run(tmp_path: Path) -> None:
    word_tokenizer(tmp_path)
    process = Process(tmp_path, "-c", GATED)
    signature = Signature(
        inputs=tuple(
            TensorSpec(name=name, dtype="int64", shape=(-1, -1))
            for name in ("input_ids", "attention_mask")
        ),
        outputs=(TensorSpec(name="embedding", dtype="float32", shape=(-1, 4)),),
        language=LanguageSpec(
            architecture="BertModel",
            context_length=300,
            vocabulary_size=9,
            dimensions=4,
            pooling="mean",
        ),
    )
    process.load(tmp_path, task="embedding", signature=signature, engine=unknown("gated"))
    process.send(texts(1, 40, 200))
    calls = tmp_path / "calls"
    deadline = time.monotonic() + 30
    while not calls.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send(texts(2, 40, 200), Cancel(id=2), Cancel(id=1), texts(3, 1, 5))
    done = process.receive()
    assert isinstance(done, Done)
    assert done.id == 3
    assert calls.read_text().split() == [str(PART_TOKENS // 224), "1"]
    process.sock.close()
    assert process.child.wait(30) == 0


def test_model_that_cannot_be_loaded_is_reported(process: Process, model: Path) -> None:
    (model / "model.xml").write_text("nonsense")
    failed = process.load(model)
    assert isinstance(failed, Failed)
    assert failed.id is None
    assert "cannot load" in failed.message
    assert process.child.wait(30) != 0


@pytest.mark.parametrize(
    ("change", "text"),
    [({"task": "juggling"}, "juggling"), ({"engine": unknown("steam")}, "steam")],
)
def test_unknown_task_or_engine_is_reported(
    process: Process, model: Path, change: dict[str, Any], text: str
) -> None:
    failed = process.load(model, **change)
    assert isinstance(failed, Failed)
    assert text in failed.message


def test_engine_takes_any_batch_size(model: Path) -> None:
    engine = make_engine("openvino")
    engine.load(model, SIGNATURE, "f32", 1)
    for rows in (1, 3, 2, 17):
        outputs = engine.infer({"x": np.zeros((rows, 4), np.float32)})
        np.testing.assert_allclose(outputs["y"], np.full((rows, 4), 0.25))
    engine.cancel()
    first = engine.infer({"x": np.zeros((1, 4), np.float32)})["y"]
    engine.infer({"x": np.array([[9, 0, 0, 0]], np.float32)})
    np.testing.assert_allclose(first, np.full((1, 4), 0.25))
    with pytest.raises(InvalidInput, match="cannot run"):
        engine.infer({"x": np.zeros((1, 5), np.float32)})
    engine.close()


def test_engine_names_a_tensor_that_the_model_lacks(model: Path) -> None:
    other = TensorSpec(name="z", dtype="float32", shape=(-1, 4))
    for signature in (
        Signature(inputs=(other,), outputs=SIGNATURE.outputs),
        Signature(inputs=SIGNATURE.inputs, outputs=(other,)),
    ):
        with pytest.raises(LMaaSError, match="'z'"):
            OpenVINOEngine().load(model, signature, "f32", 1)


def test_journal_names_who_was_at_work(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert read_journal(path) == set()
    with path.open("w+b") as file:
        journal = RequestJournal(file, 3)
    journal.begin(0, [1, 2])
    journal.begin(1, [3])
    journal.begin(2, list(range(10, 1034)))
    assert read_journal(path) == {1, 2, 3, *range(10, 1034)}
    journal.end(0)
    journal.end(2)
    assert read_journal(path) == {3}


def test_a_journal_without_end_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert read_journal(path) == set()


def test_journal_tells_how_long_timed_work_has_gone_on(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+b") as file:
        journal = RequestJournal(file, 2)
    assert journal.longest_s() == 0.0
    journal.begin(0, [1], timed=False)
    assert journal.longest_s() == 0.0
    journal.begin(1, [2])
    time.sleep(0.02)
    assert journal.longest_s() >= 0.02
    journal.end(1)
    assert journal.longest_s() == 0.0


def test_resident_bytes_is_plausible() -> None:
    assert resident_bytes() > os.sysconf("SC_PAGE_SIZE") * 100
