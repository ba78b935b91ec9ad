"""One transcription on its way back: pieces of text as they come, then all that was written down.

Knows neither models nor protocols. Whoever holds a `Transcription` reads it to its end or closes
it; closing it early cancels the request and still accounts for what it used.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import Delta, Usage
from lmaas.serving.generation import Receiver
from lmaas.serving.metrics import Metrics
from lmaas.serving.streamed import Note, Settle, Streamed
from lmaas.transcription_types import TranscribeRequest, Transcript
from lmaas.types import TRANSCRIBE, Answer, ModelVersion, Payload

Run = Callable[[Receiver], Awaitable[tuple[ModelVersion, Answer]]]
"""What runs a request. Cancelling it cancels the request."""
Keep = Callable[[bytes], None]
"""What takes a complete answer to be given again."""

_transcripts = msgspec.json.Decoder(Transcript)


class Transcription(Streamed[Delta, tuple[ModelVersion, Answer]]):
    """What `version` hears, as an async iterator of pieces of text; then `transcript` is there.

    All pieces together are the transcript's text. Make it with `start`.
    """

    def __init__(
        self,
        version: ModelVersion,
        settle: Settle,
        metrics: Metrics,
        note: Note,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(version, settle, metrics, note)
        self.usage = Usage(0)
        self.transcript: Transcript | None = None
        self.done = 0.0
        """The share of the sound that was heard by the last piece; 0: not told."""
        self._keep = keep
        self._told: list[str] = []

    def replay(self, body: bytes) -> None:
        """Give an answer that was kept; nothing runs, and nothing is used."""
        self.transcript = _transcripts.decode(body)
        self._kept()

    async def start(self, run: Run) -> None:
        """Begin, and wait for the first piece, the end, or what went wrong before it."""
        await self._begin(run(self))

    async def result(self) -> Transcript:
        """The whole transcript. Raises the LMaaSError that ends the request early."""
        async for _ in self:
            pass
        assert self.transcript is not None
        return self.transcript

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces; raises the LMaaSError that ends the request early."""
        try:
            async for piece in self._each():
                self._told.append(piece.text)
                self.done = piece.done
                yield piece.text
            rest = self._rest()
            if rest:
                yield rest
        finally:
            self.close()

    # What a worker tells

    def began(self, prompt_tokens: int) -> None:
        """Its first window is being written; what goes wrong may still be told before any text."""

    def part(self, delta: Delta) -> None:
        """A piece of the text."""
        self._count += delta.tokens
        self._note(0, self._count)
        if delta.text:
            self._pieces.append(delta)
            self._woken.set()

    def _taken(self, result: tuple[ModelVersion, Answer]) -> Usage:
        self.version, answer = result
        self.usage = Usage(0, answer.new_tokens, audio_ms=round(answer.audio_s * 1000))
        self.transcript = _transcripts.decode(answer.body)
        if self._keep is not None:
            self._keep(answer.body)
        return self.usage

    def _sent(self) -> Usage:
        return Usage(0, self._count)

    def _rest(self) -> str:
        """What of the text was in no piece."""
        assert self.transcript is not None
        told, text = "".join(self._told), self.transcript.text
        if not text.startswith(told):
            raise LMaaSError("The end of the text does not fit its beginning.")
        return text[len(told) :]


def check_hears(version: ModelVersion) -> None:
    """Raises InvalidInput unless `version` writes down what it hears."""
    task = version.manifest.task
    if not tasks.spec(task).transcribes:
        raise InvalidInput(
            f"{version.ref} is a model for {task}: it does not transcribe.",
            hint="`lmaas models list` shows what each model does.",
            param="model",
        )


def payload_of(request: TranscribeRequest) -> Payload:
    """A request as a worker reads it."""
    return Payload(media_type=TRANSCRIBE, body=msgspec.msgpack.encode(request))


def key_of(version: ModelVersion, variant: str, request: TranscribeRequest) -> bytes:
    """What tells one answer from another. Takes milliseconds for a large file.

    Whether the answer is streamed makes no difference.
    """
    asked = msgspec.structs.replace(request, stream=False, audio=b"")
    told = (version.tenant, version.ref, version.created_at, variant, "transcribe", asked)
    digest = hashlib.sha256(msgspec.json.encode(told))
    digest.update(request.audio)
    return digest.digest()
