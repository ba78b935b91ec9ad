"""A worker: one process that holds one loaded model and answers requests over its socket.

One thread does all the bookkeeping: it takes whatever the socket holds in one read, decodes it,
runs everything that waits as one batch and sends all answers in one write. Work that takes
milliseconds (images, long batches) goes to threads, so that reading and decoding go on beside it.
The worker ends when the server's end of the socket closes.
"""

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from lmaas import tasks
from lmaas.errors import LMaaSError
from lmaas.runtime.batching import BatchRequest, State
from lmaas.runtime.engine_spec import WorkerKind
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import SLOT_IDS, RequestJournal
from lmaas.runtime.language.worker import LanguageWorker
from lmaas.runtime.line import READ_BYTES, Line
from lmaas.runtime.messages import (
    AnyMessage,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Load,
    Loaded,
    Stop,
    encode,
    failure,
)
from lmaas.runtime.pipeline.worker import PipelineWorker
from lmaas.runtime.sequence.worker import SequenceWorker
from lmaas.runtime.speech.worker import SpeechWorker
from lmaas.runtime.station import Station
from lmaas.tasks.base import Batch
from lmaas.types import JSON, TENSORS, TEXTS, Payload, know_records

log = logging.getLogger(__name__)

INLINE_BYTES: Final = {JSON: 1 << 16, TENSORS: 1 << 16, TEXTS: 8192}
INLINE_FILE_BYTES: Final = 4096
"""Smaller payloads are decoded where they are read: a thread hop would cost more."""
INLINE_BATCH_S: Final = 0.003
"""Batches expected to take less run where they are read, for the same reason."""
EXIT_OK: Final = 0
EXIT_LOAD_FAILED: Final = 3
MAIN_SLOT, ENGINE_SLOT, FIRST_DECODE_SLOT = 0, 1, 2

Decoded = tuple[BatchRequest, Batch | BaseException]
Computed = tuple[Sequence[BatchRequest], Future[bytes]]


class PredictiveWorker:
    """Serves the model that is `expected` on a connected socket."""

    def __init__(self, sock: socket.socket, expected: Expect, noted: BinaryIO) -> None:
        record = expected.record
        decoders = os.cpu_count() or 1
        self._line: Line[Decoded | Computed] = Line(sock)
        self._record = record
        self._task = tasks.get(record.task)
        self._journal = RequestJournal(noted, FIRST_DECODE_SLOT + decoders)
        self._heartbeat = Heartbeat(
            lambda beat: self._line.send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
        )
        self._station = Station(
            record.engine.name,
            record.signature,
            record.max_batch_size,
            self._heartbeat,
            self._journal,
        )
        self._slots = list(range(FIRST_DECODE_SLOT, FIRST_DECODE_SLOT + decoders))
        self._decode_pool = ThreadPoolExecutor(decoders, "decode")
        self._engine_pool = ThreadPoolExecutor(1, "engine")
        self._live: dict[int, BatchRequest] = {}

    def warm(self) -> None:
        """Import what loading takes."""
        self._station.warm()

    def load(self) -> None:
        """Load the model and say so. Raises LMaaSError when it cannot be loaded."""
        start = time.perf_counter()
        record = self._record
        self._heartbeat.start()
        self._task = self._task.bind(Path(record.folder))
        self._station.load(Path(record.folder), record.precision, record.threads)
        loaded = Loaded(
            precision=record.precision,
            reason=record.reason,
            memory_bytes=resident_bytes(),
            load_s=time.perf_counter() - start,
        )
        self._line.send(encode(loaded))

    def serve(self, decoder: Decoder) -> None:
        """Answer requests until the server closes the socket or sends `Stop`."""
        line, station = self._line, self._station
        while True:
            data = line.wait(busy=station.runnable)
            if data is None:
                return
            for first, second in line.posted():
                self._collect(first, second)
            if data:
                self._handle(decoder.feed(data))
            if station.runnable:
                self._start_batch()
            self._heartbeat.queued = len(station)
            if line.is_over(idle=not self._live):
                return

    def close(self) -> None:
        """Release the model."""
        self._station.close()

    def _handle(self, messages: list[AnyMessage]) -> None:
        inline: list[tuple[BatchRequest, Payload]] = []
        for message in messages:
            match message:
                case Call(id=id_, payload=payload):
                    request = self._live[id_] = BatchRequest(id=id_)
                    if _is_cheap(payload):
                        inline.append((request, payload))
                    else:
                        self._decode_pool.submit(self._decode_beside, request, payload)
                case Cancel(id=id_):
                    if cancelled := self._live.pop(id_, None):
                        self._station.cancel(cancelled)
                case Stop(deadline_s=deadline_s):
                    self._line.stop(deadline_s)
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")
        for start in range(0, len(inline), SLOT_IDS):
            part = inline[start : start + SLOT_IDS]
            self._journal.begin(MAIN_SLOT, [request.id for request, _ in part])
            for request, payload in part:
                self._add(request, self._decode(payload))
            self._journal.end(MAIN_SLOT)

    def _decode(self, payload: Payload) -> Batch | BaseException:
        """The samples, or what was wrong: a panic of a library in Rust is no Exception."""
        try:
            return self._task.read(payload, self._record.signature, self._record.limits)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            return error

    def _decode_beside(self, request: BatchRequest, payload: Payload) -> None:
        if request.state is State.CANCELLED:
            return
        slot = self._slots.pop()
        self._journal.begin(slot, [request.id])
        outcome = self._decode(payload)
        self._journal.end(slot)
        self._slots.append(slot)
        self._line.post((request, outcome))

    def _add(self, request: BatchRequest, outcome: Batch | BaseException) -> None:
        if request.state is State.CANCELLED:
            return
        if isinstance(outcome, BaseException):
            del self._live[request.id]
            self._line.send(failure(request.id, outcome))
            return
        if not outcome.arrays and not outcome.parts:
            record = self._record
            answer = self._task.write({}, outcome, record.signature, record.model)
            del self._live[request.id]
            self._line.send(encode(Done(id=request.id, answer=answer)))
            return
        request.begin(outcome)
        self._station.add(request)

    def _start_batch(self) -> None:
        station = self._station
        requests = station.take()
        if not requests:
            return
        self._heartbeat.running = len(requests)
        if 0 < station.expected_s(requests) < INLINE_BATCH_S:
            self._settle(requests, self._compute(requests, MAIN_SLOT))
            return
        station.running = requests
        future = self._engine_pool.submit(self._compute, requests, ENGINE_SLOT)
        future.add_done_callback(lambda done: self._line.post((requests, done)))

    def _compute(self, requests: Sequence[BatchRequest], slot: int) -> bytes:
        record = self._record
        frames = []
        for request, outcome in self._station.run(requests, slot):
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                whole = request.end_part(outcome)
                if whole is None:
                    continue
                batch, outputs = whole
                answer = self._task.write(outputs, batch, record.signature, record.model)
                frames.append(encode(Done(id=request.id, answer=answer)))
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
                frames.append(failure(request.id, error))
            request.state = State.ENDED
        return b"".join(frames)

    def _collect(
        self,
        first: BatchRequest | Sequence[BatchRequest],
        second: Batch | BaseException | Future[bytes],
    ) -> None:
        if isinstance(first, BatchRequest):
            assert not isinstance(second, Future)
            self._add(first, second)
        else:
            assert isinstance(second, Future)
            self._station.running = ()
            self._settle(first, second.result())

    def _settle(self, requests: Sequence[BatchRequest], frames: bytes) -> None:
        self._heartbeat.running = 0
        for request in requests:
            if request.state is State.RUNNING:
                self._station.add(request)
            else:
                self._live.pop(request.id, None)
        self._line.send(frames)


WORKERS: Final[
    dict[
        WorkerKind,
        type[PredictiveWorker]
        | type[LanguageWorker]
        | type[SequenceWorker]
        | type[SpeechWorker]
        | type[PipelineWorker],
    ]
] = {
    "arrays": PredictiveWorker,
    "text": LanguageWorker,
    "sequences": SequenceWorker,
    "speech": SpeechWorker,
    "pipeline": PipelineWorker,
}
"""The main loop by the kind of the engine."""


def _is_cheap(payload: Payload) -> bool:
    return len(payload.body) <= INLINE_BYTES.get(payload.media_type or "", INLINE_FILE_BYTES)


def main(sock: socket.socket, noted: BinaryIO) -> int:
    """Load the model that the server names on `sock`, serve it. The exit code says how it ended.

    The requests at work are noted in the file `noted`.
    """
    logging.basicConfig(format="%(levelname)s worker %(process)d: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's; it drains us
    with sock:
        try:
            return _run(sock, noted)
        except (BrokenPipeError, ConnectionResetError):
            return EXIT_OK


def _run(sock: socket.socket, noted: BinaryIO) -> int:
    decoder = Decoder()
    messages: deque[AnyMessage] = deque()
    worker: PredictiveWorker | LanguageWorker | SequenceWorker | SpeechWorker | PipelineWorker
    try:
        expected = _next(sock, decoder, messages)
        if expected is None:
            return EXIT_OK
        assert isinstance(expected, Expect)
        worker = WORKERS[expected.record.engine.worker](sock, expected, noted)
        worker.warm()
        know_records()
        load = _next(sock, decoder, messages)
        if load is None:
            return EXIT_OK
        assert isinstance(load, Load)
        worker.load()
        gc.freeze()  # all of it lives as long as the worker: collections need not look at it
    except (LMaaSError, OSError, MemoryError) as error:
        sock.sendall(failure(None, error))
        return EXIT_LOAD_FAILED
    try:
        worker.serve(decoder)
    finally:
        worker.close()
    return EXIT_OK


def _next(sock: socket.socket, decoder: Decoder, messages: deque[AnyMessage]) -> AnyMessage | None:
    """The server's next message; None when it has hung up."""
    while not messages:
        data = sock.recv(READ_BYTES)
        if not data:
            return None
        messages.extend(decoder.feed(data))
    return messages.popleft()


def run(sock: socket.socket, noted: BinaryIO) -> NoReturn:
    """`main` as a whole process."""
    code = main(sock, noted)
    sys.stderr.flush()
    os._exit(code)  # not sys.exit: a thread may be inside an engine call that never ends
