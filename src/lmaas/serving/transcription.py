"""One transcription on its way back: pieces of text as they come, then all that was written down.

Knows neither models nor protocols. Whoever holds a `Transcription` reads it to its end or closes
it; closing it early cancels the request and still accounts for what it used.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import Delta, Usage
from lmaas.serving.generation import CANCEL_REPORT_S, Receiver, Settle, Status
from lmaas.serving.metrics import Metrics
from lmaas.transcription_types import TranscribeRequest, Transcript
from lmaas.types import TRANSCRIBE, Answer, ModelVersion, Payload

Run = Callable[[Receiver], Awaitable[tuple[ModelVersion, Answer]]]
"""What runs a request. Cancelling it cancels the request."""
Note = Callable[[int, int], None]
Keep = Callable[[bytes], None]
"""What takes a complete answer to be given again."""

_transcripts = msgspec.json.Decoder(Transcript)


class Transcription:
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
        self.version = version
        self.headers: list[tuple[bytes, bytes]] = []
        self.usage = Usage(0)
        self.transcript: Transcript | None = None
        self.done = 0.0
        """The share of the sound that was heard by the last piece; 0: not told."""
        self._settle: Settle | None = settle
        self._metrics = metrics
        self._note = note
        self._keep = keep
        self._pieces: deque[Delta] = deque()
        self._told: list[str] = []
        self._tokens = 0
        self._woken = asyncio.Event()
        self._task: asyncio.Future[tuple[ModelVersion, Answer]] | asyncio.Future[None] | None = None
        self._over_told = False

    def replay(self, body: bytes) -> None:
        """Give an answer that was kept; nothing runs, and nothing is used."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        self._task = done
        self._take(body)
        self._over_told = True
        self._end(Usage(0), "ok", None)

    async def start(self, run: Run) -> None:
        """Begin, and wait for the first piece, the end, or what went wrong before it."""
        task = self._task = asyncio.ensure_future(run(self))
        task.add_done_callback(self._over)
        try:
            await self._woken.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        if task.done():
            task.result()

    async def result(self) -> Transcript:
        """The whole transcript. Raises the LMaaSError that ends the request early."""
        async for _ in self:
            pass
        assert self.transcript is not None
        return self.transcript

    def close(self) -> None:
        """Stop the request unless it is over."""
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces; raises the LMaaSError that ends the request early."""
        assert self._task is not None
        try:
            while True:
                while self._pieces:
                    piece = self._pieces.popleft()
                    self._told.append(piece.text)
                    self.done = piece.done
                    yield piece.text
                if self._over_told:
                    # Not before: a task is done a moment before what it brought is taken.
                    self._task.result()
                    rest = self._rest()
                    if rest:
                        yield rest
                    return
                self._woken.clear()
                await self._woken.wait()
        finally:
            self.close()

    # What a worker tells

    def began(self, prompt_tokens: int) -> None:
        """Its first window is being written; what goes wrong may still be told before any text."""

    def part(self, delta: Delta) -> None:
        """A piece of the text."""
        self._tokens += delta.tokens
        self._note(0, self._tokens)
        if delta.text:
            self._pieces.append(delta)
            self._woken.set()

    def used(self, usage: Usage) -> None:
        """The request was cancelled, after using this."""
        self._end(usage, "cancelled", None)

    def _over(self, task: asyncio.Future[tuple[ModelVersion, Answer]]) -> None:
        if task.cancelled():
            # The worker says what was used; if it cannot, what was sent counts.
            loop = asyncio.get_running_loop()
            loop.call_later(CANCEL_REPORT_S, self._end, Usage(0, self._tokens), "cancelled", None)
        elif (error := task.exception()) is not None:
            self._end(Usage(0, self._tokens) if self._tokens else None, "failed", error)
        else:
            self.version, answer = task.result()
            self.usage = Usage(0, answer.new_tokens, audio_ms=round(answer.audio_s * 1000))
            self._take(answer.body)
            if self._keep is not None:
                self._keep(answer.body)
            self._end(self.usage, "ok", None)
        self._over_told = True
        self._woken.set()

    def _take(self, body: bytes) -> None:
        self.transcript = _transcripts.decode(body)

    def _rest(self) -> str:
        """What of the text was in no piece."""
        assert self.transcript is not None
        told, text = "".join(self._told), self.transcript.text
        if not text.startswith(told):
            raise LMaaSError("The end of the text does not fit its beginning.")
        return text[len(told) :]

    def _end(self, usage: Usage | None, status: Status, error: BaseException | None) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(usage, status, error)
            if usage is not None:
                self._metrics.used(self.version.ref, usage)


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
