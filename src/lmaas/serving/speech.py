"""Sound on its way back: pieces of a file as they come, what was spoken, and how it ended.

Knows neither engines nor protocols. Whoever holds a `Speech` reads it to its end or closes it;
closing it early cancels the request and still accounts for what was spoken.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.generation_types import Usage
from lmaas.serving.metrics import Metrics
from lmaas.serving.streamed import Note, Settle, Streamed
from lmaas.speech_types import SpeakRequest
from lmaas.tasks.text_to_speech.sentences import cut
from lmaas.types import Answer, ModelVersion

MOST_VOICES_SHOWN: Final = 50
STRETCHED: Final = 1.05
"""How much longer than asked for a sound can be that was made slower or faster."""


class Listener(Protocol):
    """Whoever waits for sound hears of it here, in the event loop."""

    def began(self, chars: int) -> None:
        """The text is read: it has so many characters. Told again when it begins anew."""

    def sound(self, chars: int, body: bytes) -> None:
        """So many more characters are spoken, and the next bytes of the file; maybe none."""

    def used(self, usage: Usage) -> None:
        """What a request that was cancelled had used."""


Run = Callable[[Listener], Awaitable[tuple[ModelVersion, Answer]]]
"""What runs a request. Cancelling it cancels the request."""


class Speech(Streamed[bytes, tuple[ModelVersion, Answer]]):
    """The sound of one text, as an async iterator of the bytes of its file.

    Characters and seconds are accounted for; `chars` and `audio_s` are complete after the last
    bytes. Make it with `start`.
    """

    def __init__(self, version: ModelVersion, settle: Settle, metrics: Metrics, note: Note) -> None:
        super().__init__(version, settle, metrics, note)
        self.audio_s = 0.0

    @property
    def chars(self) -> int:
        """How many characters are spoken."""
        return self._count

    async def start(self, run: Run) -> None:
        """Begin, and wait for the first bytes or for what went wrong before them."""
        await self._begin(run(self))

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes; raises the LMaaSError that ends the request early."""
        return self._each()

    # What a worker tells

    def began(self, chars: int) -> None:
        """The text is read."""
        self._count = 0

    def sound(self, chars: int, body: bytes) -> None:
        """A sentence is spoken."""
        self._count += chars
        if body:
            self._note(self._count, 0)
            self._pieces.append(body)
            self._woken.set()

    def _taken(self, result: tuple[ModelVersion, Answer]) -> Usage:
        self.version, answer = result
        self._count, self.audio_s = answer.tokens, answer.audio_s
        if answer.body:
            self._pieces.append(answer.body)
        return Usage(self._count, audio_ms=round(self.audio_s * 1000))

    def _sent(self) -> Usage:
        return Usage(self._count)


def most_audio_ms(version: ModelVersion, request: SpeakRequest) -> int:
    """How long the sound of a text can be at most, in milliseconds.

    Raises InvalidInput unless `version` speaks, and has the voice that is asked for.
    """
    task, spec = version.manifest.task, version.manifest.signature.speech
    if not tasks.spec(task).speaks or spec is None:
        raise InvalidInput(
            f"{version.ref} is a model for {task}, not for text-to-speech.",
            hint="`lmaas models list` shows what each model does.",
            param="model",
        )
    if request.voice is not None and request.voice not in spec.voices:
        more = len(spec.voices) - MOST_VOICES_SHOWN
        listed = ", ".join(spec.voices[:MOST_VOICES_SHOWN]) + (f" and {more} more" * (more > 0))
        raise InvalidInput(
            f"{version.ref} has no voice {request.voice!r}.",
            hint=f"Its voices are {listed}.",
            param="voice",
        )
    pieces = cut(request.text, spec.most_chars)
    if not pieces:
        raise InvalidInput("The text has nothing that can be spoken.", param="input")
    tokens = sum(len(piece) + 2 for piece in pieces)
    return math.ceil(1000 * tokens * spec.most_s_per_token / request.speed * STRETCHED)


def encode_speech(request: SpeakRequest) -> bytes:
    """A request as a worker reads it."""
    return msgspec.msgpack.encode(request)
