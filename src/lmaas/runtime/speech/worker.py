"""A worker for a model that speaks: a sentence of each request in turn.

One thread reads the socket; another speaks, encodes and sends. Between two sentences it looks
whether anybody still waits.
"""

import logging
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from lmaas.codecs.audio_encoding import make_encoder
from lmaas.errors import InvalidInput
from lmaas.generation_types import Ended, Usage
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import RequestJournal
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
    Sound,
    Stop,
    encode,
    failure,
)
from lmaas.runtime.speech.engine import SpeechEngine
from lmaas.speech_types import SpeakRequest
from lmaas.tasks.text_to_speech.sentences import cut
from lmaas.tasks.text_to_speech.serving import HOW
from lmaas.types import SPEAK, UNREADABLE, Answer, Payload

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
ENGINE_SLOT: Final = 0

_decoder = msgspec.msgpack.Decoder(SpeakRequest)


class SpeechWorker:
    """Serves the model that is `expected` on a connected socket."""

    def __init__(self, sock: socket.socket, expected: Expect, noted: BinaryIO) -> None:
        record = expected.record
        assert record.signature.speech is not None
        self._sock = sock
        self._record = record
        self._spec = record.signature.speech
        self._sending = threading.Lock()
        self._engine = SpeechEngine()
        self._journal = RequestJournal(noted, 1)
        self._heartbeat = Heartbeat(
            lambda beat: self._send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
        )
        self._calls: queue.SimpleQueue[tuple[int, Payload]] = queue.SimpleQueue()
        self._live: set[int] = set()
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
        self._engine.load(Path(record.folder), self._spec, record.threads)
        threading.Thread(target=self._answer, name="speech", daemon=True).start()
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
            for descriptor, _ in poll.poll(self._patience_ms()):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, READ_BYTES)
                    continue
                data = self._sock.recv(READ_BYTES)
                if not data:
                    return
                self._handle(decoder.feed(data))
            if self._stop_at is not None and (not self._live or time.monotonic() >= self._stop_at):
                return

    def close(self) -> None:
        """Nothing: the engine may be inside a call, and ends with the process."""

    def _patience_ms(self) -> float | None:
        if self._stop_at is None:
            return None
        return max(0.0, self._stop_at - time.monotonic()) * 1000

    def _handle(self, messages: list[AnyMessage]) -> None:
        for message in messages:
            match message:
                case Call(id=id_, payload=payload):
                    self._live.add(id_)
                    self._calls.put((id_, payload))
                case Cancel(id=id_):
                    self._live.discard(id_)
                case Stop(deadline_s=deadline_s):
                    self._stop_at = time.monotonic() + deadline_s
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")
        self._heartbeat.queued = len(self._live)

    def _answer(self) -> None:
        """The second thread: a sentence of each request in turn, so that no long one holds up
        the others."""
        speaking: deque[tuple[int, Iterator[bytes]]] = deque()
        while True:
            while not speaking or not self._calls.empty():
                id_, payload = self._calls.get()
                speaking.append((id_, self._speak(id_, payload)))
            self._heartbeat.running = len(speaking)
            id_, steps = speaking.popleft()
            self._journal.begin(ENGINE_SLOT, [id_], timed=False)
            try:
                last = next(steps)
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
                last = failure(id_, error)
            self._journal.end(ENGINE_SLOT)
            if not last:
                speaking.append((id_, steps))
                continue
            self._live.discard(id_)
            self._heartbeat.running = len(speaking)
            self._send(last)
            os.write(self._wake_write, b"\0")

    def _speak(self, id_: int, payload: Payload) -> Iterator[bytes]:
        """Nothing after each sentence, and at last the frame that ends the request."""
        if id_ not in self._live:
            yield _cancelled(id_, 0, 0)
            return
        request = _read(payload)
        voice = self._engine.voice(request.voice)
        pieces = cut(request.text, self._spec.most_chars)
        if not pieces:
            raise InvalidInput("The text has nothing that can be spoken.", param="input")
        for piece in pieces:
            self._engine.check(piece)
        encoder = make_encoder(request.format, self._spec.sample_rate)
        self._send(encode(Began(id=id_, prompt=len(request.text))))
        parts, samples, told = [], 0, 0
        for index, piece in enumerate(pieces):
            if id_ not in self._live:
                yield _cancelled(id_, told, 1000 * samples // self._spec.sample_rate)
                return
            self._heartbeat.begin()
            try:
                sound = self._engine.say(piece, voice, request.speed)
            finally:
                self._heartbeat.end(1)
            samples += sound.size
            data = encoder.add(sound)
            # Characters between the pieces count with the piece before them.
            so_far = len(request.text) * (index + 1) // len(pieces)
            self._send(
                encode(Sound(id=id_, chars=so_far - told, body=data if request.stream else b""))
            )
            told = so_far
            if not request.stream:
                parts.append(data)
            yield b""
        answer = Answer(
            body=b"".join((*parts, encoder.end())),
            tokens=len(request.text),
            audio_s=samples / self._spec.sample_rate,
        )
        yield encode(Done(id=id_, answer=answer))

    def _send(self, frames: bytes) -> None:
        with self._sending:
            self._sock.sendall(frames)


def _cancelled(id_: int, chars: int, audio_ms: int) -> bytes:
    """The frame that tells what a cancelled request had used."""
    return encode(Finished(id=id_, ended=Ended(usage=Usage(chars, audio_ms=audio_ms))))


def _read(payload: Payload) -> SpeakRequest:
    if payload.media_type != SPEAK:
        raise InvalidInput("This model speaks: it is not called this way.", hint=HOW)
    try:
        return _decoder.decode(payload.body)
    except UNREADABLE as error:
        raise InvalidInput(f"The request cannot be read: {error}.") from None
