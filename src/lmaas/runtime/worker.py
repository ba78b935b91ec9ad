"""A worker: one process that holds one loaded model and answers requests over its socket.

One thread does all the bookkeeping: it takes whatever the socket holds in one read, decodes it,
runs everything that waits as one batch and sends all answers in one write. Work that takes
milliseconds (images, long batches) goes to threads, so that reading and decoding go on beside it.
The worker ends when the server's end of the socket closes.
"""

import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from lmaas import tasks
from lmaas.errors import LMaaSError
from lmaas.runtime.batching import Batcher, BatchRequest, State, run_batch
from lmaas.runtime.engine import make_engine
from lmaas.runtime.engine_spec import WorkerKind
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import SLOT_IDS, RequestJournal
from lmaas.runtime.language.worker import LanguageWorker
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
from lmaas.runtime.padding import Padding
from lmaas.runtime.sequence.worker import SequenceWorker
from lmaas.runtime.speech.worker import SpeechWorker
from lmaas.tasks.base import Batch, Tensors
from lmaas.types import JSON, TENSORS, TEXTS, Payload, know_records

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
INLINE_BYTES: Final = {JSON: 1 << 16, TENSORS: 1 << 16, TEXTS: 8192}
INLINE_FILE_BYTES: Final = 4096
"""Smaller payloads are decoded where they are read: a thread hop would cost more."""
INLINE_BATCH_S: Final = 0.003
"""Batches expected to take less run where they are read, for the same reason."""
SPIN_S: Final = 0.00015 if (os.cpu_count() or 1) > 1 else 0.0
"""After work, a sleeping worker would cost the next request more time than a small model does; who
else wants the core gets it."""
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
        self._sock = sock
        self._sending = threading.Lock()
        self._record = record
        self._task = tasks.get(record.task)
        self._engine = make_engine(record.engine.name)
        self._padding = Padding.of(record.signature)
        self._batcher = Batcher(
            record.max_batch_size, joins=record.signature.batch, padding=self._padding
        )
        self._journal = RequestJournal(noted, FIRST_DECODE_SLOT + decoders)
        self._heartbeat = Heartbeat(
            lambda beat: self._send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
        )
        self._slots = list(range(FIRST_DECODE_SLOT, FIRST_DECODE_SLOT + decoders))
        self._decode_pool = ThreadPoolExecutor(decoders, "decode")
        self._engine_pool = ThreadPoolExecutor(1, "engine")
        self._live: dict[int, BatchRequest] = {}
        self._finished: deque[Decoded | Computed] = deque()
        self._running: Sequence[BatchRequest] = ()
        self._stop_at: float | None = None
        self._wake_read, self._wake_write = os.pipe()

    def warm(self) -> None:
        """Import what loading takes."""
        self._engine.warm()

    def load(self) -> None:
        """Load the model and say so. Raises LMaaSError when it cannot be loaded."""
        start = time.perf_counter()
        record = self._record
        self._heartbeat.start()
        self._task = self._task.bind(Path(record.folder))
        self._engine.load(
            Path(record.folder),
            record.signature,
            record.precision,
            record.threads,
        )
        loaded = Loaded(
            precision=record.precision,
            reason=record.reason,
            memory_bytes=resident_bytes(),
            load_s=time.perf_counter() - start,
        )
        self._send(encode(loaded))

    def serve(self, decoder: Decoder) -> None:
        """Answer requests until the server closes the socket or sends `Stop`."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            runnable = bool(self._batcher) and not self._running
            for descriptor, _ in self._next(poll, 0.0 if runnable else self._patience_ms()):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, READ_BYTES)
                    self._collect()
                    continue
                data = self._sock.recv(READ_BYTES)
                if not data:
                    return
                self._handle(decoder.feed(data))
            if self._batcher and not self._running:
                self._start_batch()
            self._heartbeat.queued = len(self._batcher)
            if self._stop_at is not None and (not self._live or time.monotonic() >= self._stop_at):
                return

    def close(self) -> None:
        """Release the model."""
        self._engine.close()

    def _next(self, poll: select.poll, patience_ms: float | None) -> list[tuple[int, int]]:
        """What can be read; looks again and again for `SPIN_S` before it sleeps."""
        ready = poll.poll(0)
        if ready or patience_ms == 0:
            return ready
        until = time.perf_counter() + SPIN_S
        while time.perf_counter() < until:
            os.sched_yield()
            ready = poll.poll(0)
            if ready:
                return ready
        return poll.poll(patience_ms)

    def _patience_ms(self) -> float | None:
        if self._stop_at is None:
            return None
        return max(0.0, self._stop_at - time.monotonic()) * 1000

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
                        self._batcher.cancel(cancelled)
                        self._cancel_batch()
                case Stop(deadline_s=deadline_s):
                    self._stop_at = time.monotonic() + deadline_s
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")
        for start in range(0, len(inline), SLOT_IDS):
            part = inline[start : start + SLOT_IDS]
            self._journal.begin(MAIN_SLOT, [request.id for request, _ in part])
            for request, payload in part:
                self._add(request, self._decode(payload))
            self._journal.end(MAIN_SLOT)

    def _cancel_batch(self) -> None:
        if self._running and all(r.state is State.CANCELLED for r in self._running):
            self._engine.cancel()

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
        self._finish((request, outcome))

    def _add(self, request: BatchRequest, outcome: Batch | BaseException) -> None:
        if request.state is State.CANCELLED:
            return
        if isinstance(outcome, BaseException):
            del self._live[request.id]
            self._send(failure(request.id, outcome))
            return
        if not outcome.arrays and not outcome.parts:
            record = self._record
            answer = self._task.write({}, outcome, record.signature, record.model)
            del self._live[request.id]
            self._send(encode(Done(id=request.id, answer=answer)))
            return
        request.begin(outcome)
        self._batcher.add(request)

    def _start_batch(self) -> None:
        requests = self._batcher.next()
        if not requests:
            return
        self._heartbeat.running = len(requests)
        cost = _cost(requests)
        expected_s = self._batcher.expected_s(cost)
        if 0 < expected_s < INLINE_BATCH_S:
            self._settle(requests, self._compute(requests, cost, MAIN_SLOT))
            return
        self._running = requests
        future = self._engine_pool.submit(self._compute, requests, cost, ENGINE_SLOT)
        future.add_done_callback(lambda done: self._finish((requests, done)))

    def _compute(self, requests: Sequence[BatchRequest], cost: int, slot: int) -> bytes:
        start = time.perf_counter()
        record = self._record
        self._journal.begin(slot, [request.id for request in requests], timed=False)
        frames = []
        for request, outcome in run_batch(
            requests,
            self._infer,
            joins=record.signature.batch,
            max_rows=self._batcher.max_rows(_row_cost(requests[0])),
            padding=self._padding,
        ):
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
        self._journal.end(slot)
        self._batcher.took(cost, time.perf_counter() - start)
        return b"".join(frames)

    def _infer(self, arrays: Tensors) -> Tensors:
        rows = 1
        if self._record.signature.batch:
            rows = next(iter(arrays.values())).shape[0]
        self._heartbeat.begin()
        try:
            return self._engine.infer(arrays)
        finally:
            self._heartbeat.end(rows)

    def _finish(self, result: Decoded | Computed) -> None:
        self._finished.append(result)
        os.write(self._wake_write, b"\0")

    def _collect(self) -> None:
        while self._finished:
            first, second = self._finished.popleft()
            if isinstance(first, BatchRequest):
                assert not isinstance(second, Future)
                self._add(first, second)
            else:
                assert isinstance(second, Future)
                self._running = ()
                self._settle(first, second.result())

    def _settle(self, requests: Sequence[BatchRequest], frames: bytes) -> None:
        self._heartbeat.running = 0
        for request in requests:
            if request.state is State.RUNNING:
                self._batcher.add(request)
            else:
                self._live.pop(request.id, None)
        self._send(frames)

    def _send(self, frames: bytes) -> None:
        with self._sending:
            self._sock.sendall(frames)


WORKERS: Final[
    dict[
        WorkerKind,
        type[PredictiveWorker] | type[LanguageWorker] | type[SequenceWorker] | type[SpeechWorker],
    ]
] = {
    "arrays": PredictiveWorker,
    "text": LanguageWorker,
    "sequences": SequenceWorker,
    "speech": SpeechWorker,
}
"""The main loop by the kind of the engine."""


def _is_cheap(payload: Payload) -> bool:
    return len(payload.body) <= INLINE_BYTES.get(payload.media_type or "", INLINE_FILE_BYTES)


def _row_cost(request: BatchRequest) -> int:
    assert request.batch is not None
    return request.batch.row_cost


def _cost(requests: Sequence[BatchRequest]) -> int:
    return max(1, sum(r.batch.size * r.batch.row_cost for r in requests if r.batch is not None))


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
    worker: PredictiveWorker | LanguageWorker | SequenceWorker | SpeechWorker
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
