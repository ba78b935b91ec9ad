"""One generation on its way back: pieces as they come, what was used, and how it ended.

Knows neither engines nor protocols. Whoever holds a `Generation` reads it to its end or closes it;
closing it early cancels the request and still accounts for what it used.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.generation_types import Delta, Ended, GenerateRequest, TokenLogprob, Usage
from lmaas.serving.metrics import Metrics
from lmaas.serving.streamed import Note, Settle, Streamed
from lmaas.types import ModelVersion


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


class Generation(Streamed[Delta, Answered]):
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
        super().__init__(version, settle, metrics, note)
        self.usage = Usage(0)
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._asked = time.perf_counter()
        self._keep = keep
        self._to_keep: list[Delta] = []

    def replay(self, ended: Ended) -> None:
        """Give an answer that was kept; nothing runs, and nothing is used."""
        self._take(ended)
        self._kept()

    async def start(self, run: Run) -> None:
        """Begin, and wait for the first token or for what went wrong before it."""
        await self._begin(run(self))

    def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas; raises the LMaaSError that ends the request early."""
        return self._each()

    # What a worker tells

    def began(self, prompt_tokens: int) -> None:
        """The first token is there."""
        self.usage = Usage(prompt_tokens)
        self._metrics.first_token(self.version.ref, time.perf_counter() - self._asked)
        self._woken.set()

    def part(self, delta: Delta) -> None:
        """A piece of the answer."""
        self._count += delta.tokens
        self._note(self.usage.prompt, self._count)
        self._pieces.append(delta)
        if self._keep is not None:
            self._to_keep.append(delta)
        self._woken.set()

    def _taken(self, result: Answered) -> Usage:
        self._take(result.ended)
        if self._keep is not None:
            self._keep(result, [*self._to_keep, *result.ended.deltas])
        return self.usage

    def _take(self, ended: Ended) -> None:
        self.usage = ended.usage
        self.prompt_logprobs = ended.prompt_logprobs
        self._pieces.extend(ended.deltas)

    def _sent(self) -> Usage:
        return Usage(self.usage.prompt, self._count)


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
