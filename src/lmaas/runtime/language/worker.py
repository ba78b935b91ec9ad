"""The main loop of a language model's worker: requests in, steps of the model, pieces out.

One thread does it all: it takes what the socket holds, begins what is new, runs one step for every
running answer, and sends all that the step brought in one write. Only the proof of a new grammar
and long texts go to a side thread.
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
from typing import BinaryIO, Final

import msgspec

from lmaas.generation_types import GenerateRequest
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import SLOT_IDS, RequestJournal
from lmaas.runtime.language.engine import make_language_engine
from lmaas.runtime.language.grammar import Prover
from lmaas.runtime.language.pictures import Pictures
from lmaas.runtime.language.session import Prepared, Session
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.tokens import Tokens
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
from lmaas.types import Answer

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
INLINE_BODY_BYTES: Final = 1 << 14
"""Longer requests are rendered and encoded beside the loop, so that running answers go on."""
FILE: Final = b"\xa4type\xa4file"
"""How a request with a file has the tag of its part. A text may look so, too, and loses little."""
ENGINE_SLOT, INLINE_SLOT, SIDE_SLOT = 0, 1, 2
SLOTS: Final = 3

_decoder = msgspec.msgpack.Decoder(GenerateRequest)


class LanguageWorker:
    """Serves the language model that is `expected` on a connected socket."""

    def __init__(self, sock: socket.socket, expected: Expect, noted: BinaryIO) -> None:
        record = expected.record
        spec = record.signature.language
        assert spec is not None
        assert record.options is not None
        self._sock = sock
        self._record = record
        self._options = record.options
        self._spec = spec
        self._sending = threading.Lock()
        self._engine = make_language_engine(record.engine.name)
        self._journal = RequestJournal(noted, SLOTS)
        self._heartbeat = Heartbeat(
            lambda beat: self._send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
        )
        self._side = ThreadPoolExecutor(1, "prepare")
        self._ready: deque[tuple[int, Callable[[], None]]] = deque()
        self._preparing: set[int] = set()
        self._stop_at: float | None = None
        self._wake_read, self._wake_write = os.pipe()
        self._prover: Prover | None = None
        self._session: Session | None = None
        self._pictures: Pictures | None = None

    def warm(self) -> None:
        """Import what loading takes."""
        self._engine.warm()

    def load(self) -> None:
        """Load the model and say so. Raises LMaaSError when it cannot be loaded."""
        start = time.perf_counter()
        record, options = self._record, self._options
        folder = Path(record.folder)
        self._heartbeat.start()
        # The engine works outside of Python.
        reading = self._side.submit(lambda: (Tokens(folder), Template.load(folder)))
        self._engine.load(folder, self._spec, options)
        vision = self._spec.vision
        if vision is not None:
            self._pictures = Pictures(
                folder, vision, options.precision, record.limits, options.threads
            )
        context = self._spec.context_length
        if self._spec.kv_bytes_per_token and options.cache_bytes:
            room = options.cache_bytes - self._spec.state_bytes
            context = max(1, min(context, room // self._spec.kv_bytes_per_token))
        tokens, template = reading.result()
        self._session = Session(self._engine, tokens, template, self._spec, context, self._pictures)
        if record.engine.proves_grammars:
            self._prover = Prover(folder, self._spec.vocabulary_size)
        loaded = Loaded(
            precision=record.precision,
            reason=record.reason,
            memory_bytes=resident_bytes(),
            load_s=time.perf_counter() - start,
        )
        self._send(encode(loaded))

    def serve(self, decoder: Decoder) -> None:
        """Answer requests until the server closes the socket or sends `Stop`."""
        session = self._session
        assert session is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(0 if session.busy() else self._patience_ms()):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, READ_BYTES)
                    self._collect()
                    continue
                data = self._sock.recv(READ_BYTES)
                if not data:
                    return
                self._handle(decoder.feed(data))
            if session.busy():
                self._step(session)
            if self._stop_at is not None and (
                not (session or self._preparing) or time.monotonic() >= self._stop_at
            ):
                return

    def close(self) -> None:
        """End what runs beside, and release the model."""
        self._engine.close()
        if self._prover is not None:
            self._prover.close()

    def _patience_ms(self) -> float | None:
        if self._stop_at is None:
            return None
        return max(0.0, self._stop_at - time.monotonic()) * 1000

    def _handle(self, messages: list[AnyMessage]) -> None:
        assert self._session is not None
        for message in messages:
            match message:
                case Call(id=id_, payload=payload):
                    self._take(id_, payload.body)
                case Cancel(id=id_):
                    self._preparing.discard(id_)
                    ended = self._session.cancel(id_)
                    if ended is not None:
                        self._note()
                        self._send(encode(Finished(id=id_, ended=ended)))
                case Stop(deadline_s=deadline_s):
                    self._stop_at = time.monotonic() + deadline_s
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")

    def _take(self, id_: int, body: bytes) -> None:
        assert self._session is not None
        self._preparing.add(id_)
        if len(body) > INLINE_BODY_BYTES or (self._spec.vision is not None and FILE in body):
            self._side.submit(self._prepare_beside, id_, body)
            return
        self._journal.begin(INLINE_SLOT, [id_])
        try:
            prepared = self._session.prepare(_decoder.decode(body))
            grammar = prepared.sampling.grammar
            proven = grammar is None or self._prover is None or self._prover.known(grammar)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self._fail(id_, error)
            return
        finally:
            self._journal.end(INLINE_SLOT)
        if proven:
            self._begin(id_, prepared)
        else:
            self._side.submit(self._prove_beside, id_, prepared)

    def _prepare_beside(self, id_: int, body: bytes) -> None:
        assert self._session is not None
        if self._pictures is not None and FILE in body:
            self._pictures.wait(lambda: id_ in self._preparing)
        if id_ not in self._preparing:
            return
        self._journal.begin(SIDE_SLOT, [id_])
        try:
            request = _decoder.decode(body)
            prepared = self._session.prepare(request, lambda: id_ in self._preparing)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self._finish_beside(id_, lambda error=error: self._fail(id_, error))  # type: ignore[misc]
            return
        finally:
            self._journal.end(SIDE_SLOT)
        self._prove_beside(id_, prepared)

    def _prove_beside(self, id_: int, prepared: Prepared) -> None:
        if id_ not in self._preparing:
            return
        grammar = prepared.sampling.grammar
        # The prover bounds its own time: a grammar is compiled in its process, not in this one.
        self._journal.begin(SIDE_SLOT, [id_], timed=False)
        try:
            if grammar is not None and self._prover is not None:
                self._prover.check(grammar)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self._finish_beside(id_, lambda error=error: self._fail(id_, error))  # type: ignore[misc]
            return
        finally:
            self._journal.end(SIDE_SLOT)
        self._finish_beside(id_, lambda: self._begin(id_, prepared))

    def _finish_beside(self, id_: int, go_on: Callable[[], None]) -> None:
        self._ready.append((id_, go_on))
        os.write(self._wake_write, b"\0")

    def _collect(self) -> None:
        while self._ready:
            id_, go_on = self._ready.popleft()
            if id_ in self._preparing:
                go_on()

    def _begin(self, id_: int, prepared: Prepared) -> None:
        assert self._session is not None
        self._preparing.discard(id_)
        if prepared.request.count_only:
            body = str(len(prepared.prompt)).encode()
            self._send(encode(Done(id=id_, answer=Answer(body=body))))
            return
        self._journal.begin(ENGINE_SLOT, [*self._session.ids(), id_][-SLOT_IDS:], timed=False)
        try:
            self._session.begin(id_, prepared)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self._fail(id_, error)

    def _fail(self, id_: int, error: BaseException) -> None:
        self._preparing.discard(id_)
        self._send(failure(id_, error))

    def _step(self, session: Session) -> None:
        self._heartbeat.begin()
        step = session.step()
        self._heartbeat.end(len(session))
        self._heartbeat.running = len(session)
        self._heartbeat.cache_used = self._engine.stats().cache_used
        frames = [encode(Began(id=id_, prompt=prompt)) for id_, prompt in step.began]
        if step.parts:
            frames.append(encode(Parts(items=tuple(step.parts))))
        frames += [encode(Finished(id=id_, ended=ended)) for id_, ended in step.ended]
        frames += [failure(id_, error) for id_, error in step.failed]
        if step.ended or step.failed:
            self._note()
        if frames:
            self._send(b"".join(frames))

    def _note(self) -> None:
        """Who is at work now, for whoever finds this process dead."""
        assert self._session is not None
        self._journal.begin(ENGINE_SLOT, self._session.ids()[-SLOT_IDS:], timed=False)

    def _send(self, frames: bytes) -> None:
        with self._sending:
            self._sock.sendall(frames)
