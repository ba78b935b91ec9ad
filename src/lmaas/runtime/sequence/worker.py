"""The main loop of an encoder-decoder's worker: requests in, steps of the model, answers out.

One thread runs the engine and all conversations but their beginnings: what a request reads first (a
sound, a long text) is read beside it, so that what is running goes on.
"""

import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, cast

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.generation_types import Ended, Usage
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import SLOT_IDS, RequestJournal
from lmaas.runtime.messages import (
    AnyMessage,
    Began,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Finished,
    Loaded,
    Parts,
    Stop,
    encode,
    failure,
)
from lmaas.runtime.sequence.calls import Conversation, SequenceTask, Turn
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.runtime.sequence.session import Session, Told
from lmaas.types import Answer, Payload

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
ENGINE_SLOT, FIRST_READ_SLOT = 0, 1
READERS: Final = 2
"""Requests that are read at once beside the engine."""


class SequenceWorker:
    """Serves the encoder-decoder that is `expected` on a connected socket."""

    def __init__(self, sock: socket.socket, expected: Expect, noted: BinaryIO) -> None:
        record = expected.record
        task = tasks.get(record.task)
        if not hasattr(task, "converse"):
            raise InvalidInput(f"Models for {record.task} are not encoder-decoders.")
        assert record.signature.sequence is not None
        assert record.options is not None
        self._task = cast(SequenceTask, task)
        self._sock = sock
        self._record = record
        self._options = record.options
        self._spec = record.signature.sequence
        self._sending = threading.Lock()
        self._engine = SequenceEngine()
        self._session = Session(self._engine)
        self._journal = RequestJournal(noted, FIRST_READ_SLOT + READERS)
        self._heartbeat = Heartbeat(
            lambda beat: self._send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
        )
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._slots = list(range(FIRST_READ_SLOT, FIRST_READ_SLOT + READERS))
        self._ready: deque[Callable[[], None]] = deque()
        self._reading: set[int] = set()
        self._stop_at: float | None = None
        self._wake_read, self._wake_write = os.pipe()

    def warm(self) -> None:
        """Import what loading takes."""
        self._engine.warm()

    def load(self) -> None:
        """Load the model and say so. Raises LMaaSError when it cannot be loaded."""
        start = time.perf_counter()
        folder = Path(self._record.folder)
        self._heartbeat.start()
        self._task = cast(SequenceTask, self._task.bind(folder))
        self._engine.load(folder, self._spec, self._options)
        loaded = Loaded(
            precision=self._record.precision,
            reason=self._record.reason,
            memory_bytes=resident_bytes(),
            load_s=time.perf_counter() - start,
        )
        self._send(encode(loaded))

    def serve(self, decoder: Decoder) -> None:
        """Answer requests until the server closes the socket or sends `Stop`."""
        session = self._session
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(0 if session.busy() else self._patience_ms()):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, READ_BYTES)
                    while self._ready:
                        self._ready.popleft()()
                    continue
                data = self._sock.recv(READ_BYTES)
                if not data:
                    return
                self._handle(decoder.feed(data))
            if session.busy():
                self._step()
            if self._stop_at is not None and (
                not (session or self._reading) or time.monotonic() >= self._stop_at
            ):
                return

    def close(self) -> None:
        """Release the model."""
        self._engine.close()

    def _patience_ms(self) -> float | None:
        if self._stop_at is None:
            return None
        return max(0.0, self._stop_at - time.monotonic()) * 1000

    def _handle(self, messages: list[AnyMessage]) -> None:
        for message in messages:
            match message:
                case Call(id=id_, payload=payload):
                    self._reading.add(id_)
                    self._readers.submit(self._read, id_, payload)
                case Cancel(id=id_):
                    ended = self._session.cancel(id_)
                    if id_ in self._reading:
                        self._reading.discard(id_)
                        ended = Ended(usage=Usage(0))
                    if ended is not None:
                        self._note()
                        self._measure()
                        self._send(encode(Finished(id=id_, ended=ended)))
                case Stop(deadline_s=deadline_s):
                    self._stop_at = time.monotonic() + deadline_s
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")

    def _read(self, id_: int, payload: Payload) -> None:
        """The first turn of a request, beside the main loop."""
        if id_ not in self._reading:
            return
        slot = self._slots.pop()
        self._journal.begin(slot, [id_])
        record = self._record
        go_on: Callable[[], None]
        try:
            conversation = self._task.converse(payload, record.signature, record.limits)
            turn = next(conversation)
            go_on = lambda: self._begin(id_, conversation, turn)  # noqa: E731
        except StopIteration as end:
            answer = end.value
            go_on = lambda: self._answer(id_, answer)  # noqa: E731
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            told = failure(id_, error)
            go_on = lambda: self._refuse(id_, told)  # noqa: E731
        finally:
            self._journal.end(slot)
            self._slots.append(slot)
        self._ready.append(go_on)
        os.write(self._wake_write, b"\0")

    def _begin(self, id_: int, conversation: Conversation, turn: Turn) -> None:
        if id_ not in self._reading:
            conversation.close()
            return
        self._reading.discard(id_)
        self._journal.begin(ENGINE_SLOT, [*self._session.ids(), id_][-SLOT_IDS:], timed=False)
        self._say(self._session.begin(id_, conversation, turn))

    def _answer(self, id_: int, answer: Answer) -> None:
        if id_ in self._reading:
            self._reading.discard(id_)
            self._send(encode(Done(id=id_, answer=answer)))

    def _refuse(self, id_: int, told: bytes) -> None:
        if id_ in self._reading:
            self._reading.discard(id_)
            self._send(told)

    def _step(self) -> None:
        self._heartbeat.begin()
        running = max(1, self._engine.stats().running)
        told = self._session.step()
        self._heartbeat.end(running)
        self._measure()
        self._say(told)

    def _measure(self) -> None:
        """How full the engine is, for the next beat."""
        stats = self._engine.stats()
        self._heartbeat.running = len(self._session)
        self._heartbeat.queued = stats.waiting
        self._heartbeat.cache_used = stats.cache_used

    def _say(self, told: Told) -> None:
        """Send what a step brought, in one write."""
        frames = [encode(Began(id=id_, prompt=prompt)) for id_, prompt in told.began]
        if told.parts:
            frames.append(encode(Parts(items=tuple(told.parts))))
        frames += [encode(Done(id=id_, answer=answer)) for id_, answer in told.done]
        frames += [failure(id_, error) for id_, error in told.failed]
        if told.done or told.failed:
            self._note()
        if frames:
            self._send(b"".join(frames))

    def _note(self) -> None:
        """Who is at work now, for whoever finds this process dead."""
        self._journal.begin(ENGINE_SLOT, self._session.ids()[-SLOT_IDS:], timed=False)

    def _send(self, frames: bytes) -> None:
        with self._sending:
            self._sock.sendall(frames)
