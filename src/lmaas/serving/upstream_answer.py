"""What an OpenAI-compatible service answers, as deltas: whole, or event by event.

Token ids are not told by such services: log probabilities have the id -1.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from lmaas.errors import Unavailable
from lmaas.generation_types import (
    CallDelta,
    Delta,
    Ended,
    Finish,
    GenerateRequest,
    TokenLogprob,
    Usage,
)
from lmaas.types import UNREADABLE

T = TypeVar("T")
Byte = Annotated[int, Meta(ge=0, le=255)]

NO_ID: Final = -1
MAX_EVENT_BYTES: Final = 8 << 20
MAX_EVENT_LINES: Final = 1024
FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""Any other reason, as content_filter, is a stop."""
BROKEN_OFF: Final = ("abort", "error")
"""What vLLM calls the end of answers that it could not finish."""


class Function(msgspec.Struct):
    """A called function, or a piece of it."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    """A tool call, or a piece of it."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Turn(msgspec.Struct):
    """The model's turn, or what it gained. Two names for the reasoning are in use."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None


class TopLogprob(msgspec.Struct):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None


class TokenEntry(msgspec.Struct):
    """A token of a chat."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(msgspec.Struct):
    """A chat's (`content`), or a text's (the other fields)."""

    content: list[TokenEntry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct):
    """One answer: `message`, a chat's; `delta`, what it gained; `text`, a text's."""

    index: int = 0
    message: Turn | None = None
    delta: Turn | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class PromptDetails(msgspec.Struct):
    """How many tokens were cached."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """How many tokens are reasoning."""

    reasoning_tokens: int | None = None


class UsageBody(msgspec.Struct):
    """Tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Message(msgspec.Struct):
    """An answer, a chunk of it, or an error."""

    choices: list[Choice] = []
    usage: UsageBody | None = None
    error: Any = None


_decoder: Final = msgspec.json.Decoder(Message)


def decode(data: bytes, origin: str) -> Message:
    """An answer or a chunk. Raises Unavailable for what is none."""
    return read(_decoder, data, origin)


def read(decoder: msgspec.json.Decoder[T], data: bytes, origin: str) -> T:
    """What `decoder` finds in an answer. Raises Unavailable for what is not of its shape."""
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise Unavailable(f"{origin} gave an answer that is not OpenAI's: {error}.") from None


def usage_of(body: UsageBody) -> Usage:
    """What was used; never less than nothing."""
    prompt, completion = body.prompt_tokens_details, body.completion_tokens_details
    return Usage(
        max(0, body.prompt_tokens),
        max(0, body.completion_tokens),
        max(0, completion.reasoning_tokens or 0) if completion is not None else 0,
        max(0, prompt.cached_tokens or 0) if prompt is not None else 0,
    )


def delta_of(choice: Choice) -> Delta:
    """What a choice gained. Its tokens are those with log probabilities, else one."""
    turn = choice.delta or choice.message
    text, reasoning = choice.text or "", ""
    calls: tuple[CallDelta, ...] = ()
    if turn is not None:
        text = turn.content or turn.refusal or ""
        reasoning = turn.reasoning_content or turn.reasoning or ""
        if turn.tool_calls:
            whole = choice.message is not None
            calls = tuple(
                _call(call, i if whole else None) for i, call in enumerate(turn.tool_calls)
            )
    logprobs = () if choice.logprobs is None else tuple(_logprobs(choice.logprobs))
    finish = choice.finish_reason
    reason = choice.stop_reason
    return Delta(
        choice.index,
        text,
        len(logprobs) or (1 if text or reasoning or calls else 0),
        None if finish is None else FINISHES.get(finish, "stop"),
        reasoning,
        calls,
        logprobs,
        reason if isinstance(reason, str) else "",
    )


def _call(call: Call, position: int | None) -> CallDelta:
    return CallDelta(
        call.index if position is None else position,
        call.id or "",
        call.function.name or "",
        call.function.arguments or "",
    )


def _logprobs(told: Logprobs) -> Iterator[TokenLogprob]:
    for entry in told.content or ():
        top = tuple(
            (NO_ID, t.token, _raw(t.token, t.bytes), t.logprob) for t in entry.top_logprobs or ()
        )
        yield TokenLogprob(NO_ID, entry.token, _raw(entry.token, entry.bytes), entry.logprob, top)
    tops = told.top_logprobs or [None] * len(told.tokens or ())
    for token, logprob, also in zip(
        told.tokens or (), told.token_logprobs or (), tops, strict=False
    ):
        top = tuple((NO_ID, text, text.encode(), value) for text, value in (also or {}).items())
        yield TokenLogprob(NO_ID, token, token.encode(), logprob, top)


def _raw(token: str, told: list[Byte] | None) -> bytes:
    return token.encode() if told is None else bytes(told)


def whole(message: Message, request: GenerateRequest, usage: Usage) -> Ended:
    """A whole answer. With an echo, the prompt's log probabilities are told apart."""
    deltas = [delta_of(choice) for choice in message.choices]
    before: tuple[TokenLogprob, ...] = ()
    if request.prompt_logprobs is not None and deltas:
        before = deltas[0].logprobs[: usage.prompt]
        deltas = [
            msgspec.structs.replace(delta, logprobs=delta.logprobs[usage.prompt :])
            for delta in deltas
        ]
    return Ended(usage, tuple(deltas), before)


class Events:
    """Server-sent events, put together from the bytes as they come."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes. Raises Unavailable for one too long."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES or len(self._data) > MAX_EVENT_LINES:
            raise Unavailable(f"{self._origin} sent an event that is too long.")
        events = []
        for line in lines:
            if line[-1:] == b"\r":
                line = line[:-1]
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line[:5] == b"data:":
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        return events
