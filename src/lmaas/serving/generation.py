"""One generation on its way back: pieces as they come, what was used, and how it ended.

Knows neither engines nor protocols. Whoever holds a `Generation` reads it to its end or closes it;
closing it early cancels the request and still accounts for what it used.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, NamedTuple, Protocol

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.generation_types import Delta, Ended, GenerateRequest, TokenLogprob, Usage
from lmaas.serving.metrics import Metrics
from lmaas.types import ModelVersion

Status = Literal["ok", "failed", "cancelled"]
Settle = Callable[[Usage | None, Status, BaseException | None], None]
Note = Callable[[int, int], None]
"""What is told, as a stream goes on, how many tokens of prompt and answer have gone out."""


class Receiver(Protocol):
    """Whoever waits for a generation hears of it here, in the event loop."""

    def began(self, prompt_tokens: int) -> None:
        """The first token is there. Told again when the request begins anew."""

    def part(self, delta: Delta) -> None:
        """A piece of a streamed answer."""

    def used(self, usage: Usage) -> None:
        """What a request that was cancelled had used."""


class Answered(NamedTuple):
    """The end of a request, and the version and variant that answered it."""

    version: ModelVersion
    variant_name: str
    ended: Ended


Keep = Callable[[Answered, list[Delta]], None]
"""What takes a complete answer to be given again."""
Run = Callable[[Receiver], Awaitable[Answered]]
"""What runs a request: a worker, or another service. Cancelling it cancels the request."""


class Generation:
    """The answer of `version` to one request, as an async iterator of deltas.

    `usage` and `prompt_logprobs` are complete after the last delta. Make it with `start`.
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
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._settle: Settle | None = settle
        self._metrics = metrics
        self._note = note
        self._asked = time.perf_counter()
        self._keep = keep
        self._kept: list[Delta] = []
        self._deltas: deque[Delta] = deque()
        self._streamed = 0
        self._woken = asyncio.Event()
        self._task: asyncio.Future[Answered] | asyncio.Future[None] | None = None
        self._over_told = False

    def replay(self, ended: Ended) -> None:
        """Give an answer that was kept; nothing runs, and nothing is used."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        self._task = done
        self._take(ended)
        self._over_told = True
        self._end(Usage(0), "ok", None)

    async def start(self, run: Run) -> None:
        """Begin, and wait for the first token or for what went wrong before it."""
        task = self._task = asyncio.ensure_future(run(self))
        task.add_done_callback(self._over)
        try:
            await self._woken.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        if task.done():
            task.result()

    def close(self) -> None:
        """Stop the request unless it is over."""
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas; raises the LMaaSError that ends the request early."""
        assert self._task is not None
        try:
            while True:
                while self._deltas:
                    yield self._deltas.popleft()
                if self._over_told:
                    # Not before: a task is done a moment before what it brought is taken.
                    self._task.result()
                    return
                self._woken.clear()
                await self._woken.wait()
        finally:
            self.close()

    # What a worker tells

    def began(self, prompt_tokens: int) -> None:
        """The first token is there."""
        self.usage = Usage(prompt_tokens)
        self._metrics.first_token(self.version.ref, time.perf_counter() - self._asked)
        self._woken.set()

    def part(self, delta: Delta) -> None:
        """A piece of the answer."""
        self._streamed += delta.tokens
        self._note(self.usage.prompt, self._streamed)
        self._deltas.append(delta)
        if self._keep is not None:
            self._kept.append(delta)
        self._woken.set()

    def used(self, usage: Usage) -> None:
        """The request was cancelled, after using this."""
        self._end(usage, "cancelled", None)

    def _over(self, task: asyncio.Future[Answered]) -> None:
        if task.cancelled():
            # The worker says what was used; if it cannot, what was sent counts.
            loop = asyncio.get_running_loop()
            loop.call_later(CANCEL_REPORT_S, self._end, self._sent(), "cancelled", None)
        elif (error := task.exception()) is not None:
            self._end(self._sent() if self._streamed else None, "failed", error)
        else:
            answered = task.result()
            ended = answered.ended
            self._take(ended)
            if self._keep is not None:
                self._keep(answered, [*self._kept, *ended.deltas])
            self._end(ended.usage, "ok", None)
        self._over_told = True
        self._woken.set()

    def _take(self, ended: Ended) -> None:
        self.usage = ended.usage
        self.prompt_logprobs = ended.prompt_logprobs
        self._deltas.extend(ended.deltas)

    def _sent(self) -> Usage:
        return Usage(self.usage.prompt, self._streamed)

    def _end(self, usage: Usage | None, status: Status, error: BaseException | None) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(usage, status, error)
            if usage is not None:
                self._metrics.used(self.version.ref, usage)


def check_language(version: ModelVersion) -> None:
    """Raises InvalidInput unless `version` generates text."""
    task = version.manifest.task
    if not tasks.spec(task).generates:
        raise InvalidInput(
            f"{version.ref} is a model for {task}, not for text-generation.",
            hint="`lmaas models list` shows what each model does.",
            param="model",
        )


def check_parts(version: ModelVersion, request: GenerateRequest) -> None:
    """Raises InvalidInput naming the first part of a message that the model does not take."""
    language = version.manifest.signature.language
    accepts = ("text",) if language is None else language.accepts
    for file in request.files:
        if file.kind not in accepts:
            raise InvalidInput(
                f"{file.place} is of the type {file.kind!r}; {version.ref} takes "
                f"{' and '.join(accepts)} only.",
                hint=f"Leave it out, or ask a model that takes {file.kind}.",
                param=file.place,
            )


_encoder = msgspec.msgpack.Encoder()


def encode_request(request: GenerateRequest) -> bytes:
    """A request as a worker reads it. Raises InvalidInput for numbers that do not fit."""
    try:
        return _encoder.encode(request)
    except OverflowError:
        raise InvalidInput(
            "The request has an integer of more than 64 bits.",
            hint="It may be in logit_bias, a schema or chat_template_kwargs.",
        ) from None


CANCEL_REPORT_S = 2.0
"""How long a worker has to say what a cancelled request used."""
