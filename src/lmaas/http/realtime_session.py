"""One live transcription in the shape of OpenAI's Realtime API: turns of sound are written down.

It keeps the sound of one turn at most, and one turn is written at a time while a few wait; beyond
that the client's next message waits. Knows no routes: it is told how a turn is written down.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from wsproto.frame_protocol import CloseReason

from lmaas.codecs import pcm
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.http import realtime_body
from lmaas.http.errors import openai_error
from lmaas.http.realtime_body import Append, BadEvent, Clear, Commit, SessionConfig, SessionUpdate
from lmaas.http.websocket import SocketClosed, WebSocket
from lmaas.serving.turns import TurnDetector
from lmaas.transcription_types import TranscribeRequest, Transcript

log = logging.getLogger(__name__)

LONGEST_TURN_S: Final = 60
"""A turn that lasts so long is ended; without turn detection no more is taken."""
SHORTEST_TURN_MS: Final = 100
"""What a client commits has at least so much sound."""
WAITING_TURNS: Final = 2
"""So many turns wait to be written down; then the client has to wait too."""
TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"

Hear = Callable[[str, TranscribeRequest], AsyncGenerator[str | Transcript, None]]
"""What writes down a turn with a model: pieces of its text, and at the end the whole."""


class Heard(NamedTuple):
    """A committed turn."""

    item_id: str
    model: str
    request: TranscribeRequest


class RealtimeSession:
    """The session of one WebSocket. `known` raises an LMaaSError for what is no model that hears.

    `expires_at` is a Unix time, for the client; whoever runs the session ends it.
    """

    def __init__(
        self,
        socket: WebSocket,
        hear: Hear,
        known: Callable[[str], Awaitable[None]],
        *,
        model: str | None,
        expires_at: int,
    ) -> None:
        self._socket = socket
        self._hear = hear
        self._known = known
        self._id = f"sess_{secrets.token_hex(12)}"
        self._expires_at = expires_at
        self._config = SessionConfig()
        if model is not None:
            self._config.audio.input.transcription = realtime_body.Transcription(model=model)
        self._turns: asyncio.Queue[Heard] = asyncio.Queue(WAITING_TURNS)
        self._last_item: str | None = None
        self._begin()

    async def run(self) -> None:
        """Talk until the socket is closed, which raises SocketClosed."""
        sides = [
            asyncio.ensure_future(side)
            for side in (self._talk(), self._write_turns(), self._socket.closed())
        ]
        try:
            done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            for side in done:
                side.result()
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _talk(self) -> None:
        await self._send("session.created", session=self._told())
        while True:
            message = await self._socket.receive()
            if not isinstance(message, str):
                self._socket.close(CloseReason.UNSUPPORTED_DATA, "Events are texts, in JSON.")
            else:
                await self._handle(message)

    async def fail(self, error: LMaaSError, event_id: str | None = None) -> None:
        """Tell of an error; the session goes on."""
        told = openai_error(error) | {"event_id": event_id}
        await self._send("error", error=told)

    # What the client says

    async def _handle(self, message: str) -> None:
        try:
            event = realtime_body.read_event(message)
        except BadEvent as bad:
            await self.fail(bad.error, bad.event_id)
            return
        try:
            match event:
                case SessionUpdate(session=change):
                    await self._update(change)
                case Append(audio=audio):
                    await self._append(audio)
                case Commit():
                    await self._commit()
                case Clear():
                    self._begin()
                    await self._send("input_audio_buffer.cleared")
        except LMaaSError as error:
            await self.fail(error, event.event_id)

    async def _update(self, change: dict[str, Any]) -> None:
        old = self._config.audio.input
        config = realtime_body.updated(self._config, change)
        fresh = config.audio.input
        if fresh.format.type != old.format.type and self._buffer:
            raise InvalidInput(
                "The format cannot change while sound of another one waits.",
                hint="Commit it or clear it first.",
                param="session.audio.input.format",
            )
        if fresh.transcription is not None and fresh.transcription.model is not None:
            await self._known(fresh.transcription.model)
        self._config = config
        if (fresh.format, fresh.turn_detection) != (old.format, old.turn_detection):
            self._begin()
        await self._send("session.updated", session=self._told())

    async def _append(self, audio: str) -> None:
        model = self._transcription.model
        if model is None:
            raise InvalidInput(
                "No model writes down what is heard.",
                hint="Name it in session.audio.input.transcription.model, or with ?model=.",
                param="session.audio.input.transcription.model",
            )
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput("audio is not base64.", param="audio") from None
        if self._detector is None:
            self._add(data)
            return
        # In steps, so that one long message cannot keep more than a turn.
        step = self._bytes_of(1000)
        for start in range(0, len(data), step):
            await self._listen(self._add(data[start : start + step]))

    def _add(self, data: bytes) -> np.ndarray:
        """Keep bytes of sound; the samples that are whole with them. Raises InvalidInput."""
        most = self._bytes_of(LONGEST_TURN_S * 1000)
        if self._detector is None and len(self._buffer) + len(data) > most:
            raise InvalidInput(
                f"The buffer has room for {LONGEST_TURN_S} s of sound.",
                hint="Commit it or clear it.",
                param="audio",
            )
        size = pcm.SAMPLE_BYTES[self._format]
        whole = len(self._buffer) // size * size
        self._buffer += data
        end = len(self._buffer) // size * size
        return pcm.samples(bytes(self._buffer[whole:end]), self._format)

    async def _listen(self, samples: np.ndarray) -> None:
        detector = self._detector
        assert detector is not None
        for turn in detector.feed(samples):
            if turn.what == "began":
                self._drop_before(turn.at_ms)
                self._item = _item_id()
                await self._send(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=self._start_ms,
                    item_id=self._item,
                )
            else:
                await self._end_turn(turn.at_ms)
        if detector.speaking and len(self._buffer) >= self._bytes_of(LONGEST_TURN_S * 1000):
            detector.end()
            await self._end_turn(self._start_ms + LONGEST_TURN_S * 1000)
        elif not detector.speaking:
            kept_ms = self._ms_of(len(self._buffer)) - self._prefix_ms
            self._drop_before(self._start_ms + kept_ms)

    async def _end_turn(self, at_ms: int) -> None:
        await self._send(
            "input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=self._item
        )
        await self._take(self._bytes_of(at_ms - self._start_ms))

    async def _commit(self) -> None:
        quiet = self._detector is not None and not self._detector.speaking
        if quiet or len(self._buffer) < self._bytes_of(SHORTEST_TURN_MS):
            error = InvalidInput(
                f"There is too little sound to commit: expected {SHORTEST_TURN_MS} ms of it, "
                f"received {0 if quiet else self._ms_of(len(self._buffer))} ms.",
                hint="With turn detection, turns are committed by the server.",
            )
            error.code = "input_audio_buffer_commit_empty"
            raise error
        if self._detector is not None:
            self._detector.end()
        else:
            self._item = _item_id()
        size = pcm.SAMPLE_BYTES[self._format]
        await self._take(len(self._buffer) // size * size)
        self._buffer.clear()

    # The sound that waits

    def _begin(self) -> None:
        """An empty buffer, and a detector that has heard nothing."""
        given = self._config.audio.input
        self._format = given.format.type
        self._buffer = bytearray()
        self._start_ms = 0
        self._item = _item_id()
        self._detector: TurnDetector | None = None
        vad = given.turn_detection
        if vad is None:
            return
        self._prefix_ms = vad.prefix_padding_ms
        self._detector = TurnDetector(
            pcm.RATES[self._format],
            threshold=vad.threshold,
            prefix_ms=vad.prefix_padding_ms,
            silence_ms=vad.silence_duration_ms,
        )

    def _drop_before(self, at_ms: int) -> None:
        """Forget the sound before this time of the session."""
        gone = min(len(self._buffer), self._bytes_of(max(0, at_ms - self._start_ms)))
        del self._buffer[:gone]
        self._start_ms += self._ms_of(gone)

    def _bytes_of(self, ms: int) -> int:
        return ms * pcm.RATES[self._format] // 1000 * pcm.SAMPLE_BYTES[self._format]

    def _ms_of(self, size_bytes: int) -> int:
        return size_bytes // pcm.SAMPLE_BYTES[self._format] * 1000 // pcm.RATES[self._format]

    @property
    def _transcription(self) -> realtime_body.Transcription:
        return self._config.audio.input.transcription or realtime_body.Transcription()

    async def _take(self, size_bytes: int) -> None:
        """Commit the first bytes of the buffer as a turn."""
        given, item_id, before = self._transcription, self._item, self._last_item
        data = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        self._start_ms += self._ms_of(size_bytes)
        self._last_item = item_id
        await self._send("input_audio_buffer.committed", item_id=item_id, previous_item_id=before)
        content = [{"type": "input_audio", "transcript": None}]
        item = {
            "id": item_id, "object": "realtime.item", "type": "message", "role": "user",
            "status": "completed", "content": content,
        }  # fmt: skip
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._send(kind, item=item, previous_item_id=before)
        if given.model is None:
            return
        request = TranscribeRequest(
            audio=pcm.wav(pcm.samples(data, self._format), pcm.RATES[self._format]),
            language=given.language,
            prompt=given.prompt,
            logprobs=realtime_body.LOGPROBS in self._config.include,
            stream=True,
        )
        await self._turns.put(Heard(item_id, given.model, request))

    # What is written down

    async def _write_turns(self) -> None:
        while True:
            heard = await self._turns.get()
            try:
                await self._write(heard)
            except SocketClosed:
                raise
            except LMaaSError as error:
                await self._tell_failed(heard, error)
            except Exception:
                log.exception("A turn of %s failed.", self._id)
                await self._tell_failed(heard, LMaaSError("Internal error."))

    async def _write(self, heard: Heard) -> None:
        place: dict[str, Any] = {"item_id": heard.item_id, "content_index": 0}
        streamed = False
        async with contextlib.aclosing(self._hear(heard.model, heard.request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    streamed = True
                    await self._send(f"{TRANSCRIPTION}.delta", **place, delta=piece)
                    continue
                if piece.text and not streamed:
                    await self._send(f"{TRANSCRIPTION}.delta", **place, delta=piece.text)
                await self._send(f"{TRANSCRIPTION}.completed", **place, **_completed(piece))

    async def _tell_failed(self, heard: Heard, error: LMaaSError) -> None:
        place = {"item_id": heard.item_id, "content_index": 0}
        with contextlib.suppress(SocketClosed):
            await self._send(f"{TRANSCRIPTION}.failed", **place, error=openai_error(error))

    # What the server says

    def _told(self) -> dict[str, Any]:
        given = self._config.audio.input
        audio = msgspec.to_builtins(given)
        audio["format"] = {"type": given.format.type}
        if given.format.type == "audio/pcm":
            audio["format"]["rate"] = given.format.samples_per_s
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": self._id,
            "expires_at": self._expires_at,
            "audio": {"input": _present(audio)},
            "include": self._config.include,
        }

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(10)}", **fields}
        await self._socket.send(msgspec.json.encode(event).decode())


def _completed(transcript: Transcript) -> dict[str, Any]:
    told: dict[str, Any] = {
        "transcript": transcript.text,
        "usage": {"type": "duration", "seconds": transcript.duration},
    }
    if transcript.logprobs is not None:
        told["logprobs"] = [
            {"token": each.token, "bytes": list(each.raw), "logprob": each.logprob}
            for each in transcript.logprobs
        ]
    return told


def _present(audio: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are told: of the optional ones, those that are set."""
    for name in ("transcription", "turn_detection"):
        if audio[name] is not None:
            audio[name] = {key: value for key, value in audio[name].items() if value is not None}
    return audio


def _item_id() -> str:
    return f"item_{secrets.token_hex(10)}"
