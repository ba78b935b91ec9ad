"""A generation in the shape of Anthropic's messages: whole, or as a stream of events."""

import re
from typing import Any, Literal

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Finish, Usage
from lmaas.http import errors
from lmaas.http.collect import Collected
from lmaas.http.sse import encode, event
from lmaas.types import UNREADABLE

PATH = "/v1/messages"
STOPS: dict[Finish, Literal["end_turn", "max_tokens", "tool_use"]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


_CUT_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?\Z")


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """What the model says."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """What the model thinks first; nothing is signed."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call that the model makes. `input` has what was whole when `max_tokens` cut the call."""

    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(msgspec.Struct, frozen=True):
    """Tokens of a request. `input_tokens` are those not known to come from the prefix cache.

    Those that do are null where the engine does not tell; what goes into it is told by none.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None
    cache_creation_input_tokens: None = None


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ThinkingBlock | TextBlock | ToolUseBlock]
    stop_reason: str | None
    stop_sequence: str | None = None
    usage: MessageUsage


class TokenCount(msgspec.Struct, frozen=True):
    """How many tokens a prompt has."""

    input_tokens: int


def usage_of(usage: Usage) -> MessageUsage:
    """What a request used, as Anthropic tells it."""
    return MessageUsage(usage.prompt - usage.cached, usage.completion, usage.cached or None)


def message(
    *, id: str, model: str, choice: Collected, usage: Usage, silent: bool = False
) -> AnswerMessage:
    """The whole answer; `silent`: without what the model thought."""
    content: list[ThinkingBlock | TextBlock | ToolUseBlock] = []
    if choice.reasoning:
        content.append(ThinkingBlock("" if silent else "".join(choice.reasoning)))
    if choice.text:
        content.append(TextBlock("".join(choice.text)))
    for _, call in sorted(choice.calls.items()):
        content.append(ToolUseBlock(call.id, call.name, _input(call.arguments)))
    return AnswerMessage(
        id=f"msg_{id}",
        model=model,
        content=content,
        stop_reason="stop_sequence" if choice.stop else STOPS[choice.finish or "stop"],
        stop_sequence=choice.stop or None,
        usage=usage_of(usage),
    )


def _input(arguments: str) -> dict[str, Any]:
    """The arguments; of those that were cut, what their beginning says."""
    cut = 0
    open_: list[str] = []
    before: list[str] = []
    in_string = escaped = False
    for at, character in enumerate(arguments):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_.append("}" if character == "{" else "]")
            cut, before = at + 1, [*open_]
        elif character in "}]" and open_:
            open_.pop()
        elif character == ",":
            cut, before = at, [*open_]
    end = _CUT_ESCAPE.sub(r"\1", arguments) + '"' if in_string else arguments
    # To the end, or else to the last value that is whole: more digits may have been to come.
    whole, rest = (end, open_), (arguments[:cut], before)
    for text, ends in (rest,) if open_ and end[-1:].isdigit() else (whole, rest):
        try:
            return msgspec.json.decode(text + "".join(reversed(ends)), type=dict[str, Any])
        except UNREADABLE:
            continue
    return {}


class MessageWriter:
    """A stream of events: blocks that begin, grow and end, one after the other.

    `silent`: what the model thinks is not told, only that it does.
    """

    def __init__(self, *, id: str, model: str, prompt: Usage, silent: bool = False) -> None:
        self._silent = silent
        self._start = AnswerMessage(
            id=f"msg_{id}", model=model, content=[], stop_reason=None, usage=usage_of(prompt)
        )
        self._block = -1
        self._open: str | int | None = None
        self._finish: Finish = "stop"
        self._stop = ""
        self._grows = b""

    def begin(self) -> bytes:
        """The message, still empty."""
        start = event("message_start", {"type": "message_start", "message": self._start})
        return start + event("ping", {"type": "ping"})

    def piece(self, delta: Delta) -> bytes:
        """What a delta adds to the open block, or to a new one."""
        parts: list[bytes] = []
        if delta.reasoning:
            if self._open != "thinking":
                parts.append(self._begin("thinking", ThinkingBlock("")))
            if not self._silent:
                parts += (self._grows, encode(delta.reasoning), b"}}\n\n")
        if delta.text:
            if self._open != "text":
                parts.append(self._begin("text", TextBlock("")))
            parts += (self._grows, encode(delta.text), b"}}\n\n")
        for call in delta.calls:
            if self._open != call.position:
                parts.append(self._begin(call.position, ToolUseBlock(call.id, call.name, {})))
            if call.arguments:
                parts += (self._grows, encode(call.arguments), b"}}\n\n")
        if delta.finish is not None:
            self._finish, self._stop = delta.finish, delta.stop
        return b"".join(parts)

    def end(self, usage: Usage) -> bytes:
        """The end of the open block and of the message."""
        reason = "stop_sequence" if self._stop else STOPS[self._finish]
        delta = {"stop_reason": reason, "stop_sequence": self._stop or None}
        told = {"type": "message_delta", "delta": delta, "usage": usage_of(usage)}
        stop = event("message_stop", {"type": "message_stop"})
        return self._end_block() + event("message_delta", told) + stop

    def failed(self, error: LMaaSError) -> bytes:
        """The error; the message is left open."""
        return b"event: error\ndata: %b\n\n" % errors.body_of(error, PATH)[0]

    def _begin(self, kind: str | int, block: ThinkingBlock | TextBlock | ToolUseBlock) -> bytes:
        ended = self._end_block()
        self._block += 1
        self._open = kind
        grows = {"thinking": '"thinking_delta","thinking":', "text": '"text_delta","text":'}
        how = grows.get(str(kind), '"input_json_delta","partial_json":')
        self._grows = (
            f'event: content_block_delta\ndata: {{"type":"content_block_delta",'
            f'"index":{self._block},"delta":{{"type":{how}'
        ).encode()
        start = {"type": "content_block_start", "index": self._block, "content_block": block}
        return ended + event("content_block_start", start)

    def _end_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return event("content_block_stop", {"type": "content_block_stop", "index": self._block})
