"""A generation in the shape of OpenAI's chat completions: whole, or as a stream of chunks."""

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Finish, TokenLogprob, Usage
from lmaas.http.collect import Collected
from lmaas.http.openai_types import ChatLogprob, UsageBody, chat_logprob, usage_body
from lmaas.http.sse import DONE, encode, error_data

PATH = "/v1/chat/completions"


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of the tokens of the content."""

    content: list[ChatLogprob]
    refusal: None = None


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A called function, or a piece of it: then only the first has the name."""

    arguments: str
    name: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call, or a piece of it; `index` is a piece's."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Function


class AssistantMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model's turn. `content` is null when there are only tool calls."""

    role: str
    content: str | None
    refusal: Literal[None] | msgspec.UnsetType = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model's turn gained."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChunkChoice(msgspec.Struct, frozen=True):
    """What one of `n` answers gained."""

    index: int
    delta: Piece
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. `system_fingerprint` is the exact version that answered."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageBody
    service_tier: Literal["default"] = "default"
    metadata: dict[str, str] | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer; `usage` is null in all but the last, if asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: UsageBody | None = None


def completion(
    *,
    id: str,
    model: str,
    version: str,
    choices: Sequence[Collected],
    usage: Usage,
    logprobs: bool,
    metadata: dict[str, str] | None,
) -> ChatCompletion:
    """The whole answer."""
    return ChatCompletion(
        id=f"chatcmpl-{id}",
        created=int(time.time()),
        model=model,
        system_fingerprint=version,
        choices=[_choice(i, choice, logprobs) for i, choice in enumerate(choices)],
        usage=usage_body(usage),
        metadata=metadata,
    )


def _choice(index: int, choice: Collected, logprobs: bool) -> ChatChoice:
    calls = [
        Call(id=call.id, type="function", function=Function(call.arguments, call.name))
        for _, call in sorted(choice.calls.items())
    ]
    text = "".join(choice.text)
    message = AssistantMessage(
        role="assistant",
        content=text if text or not calls else None,
        refusal=None,
        reasoning_content="".join(choice.reasoning) or None,
        tool_calls=calls or None,
    )
    return ChatChoice(
        index, message, _logprobs(choice.logprobs) if logprobs else None, choice.finish
    )


def _logprobs(entries: Sequence[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs([chat_logprob(entry) for entry in entries])


class ChatWriter:
    """A stream of chunks. All that is alike in every chunk is encoded once."""

    def __init__(
        self, *, id: str, model: str, version: str, usage: bool, choices: int, logprobs: bool
    ) -> None:
        empty = encode(
            ChatCompletionChunk(
                id=f"chatcmpl-{id}",
                created=int(time.time()),
                model=model,
                system_fingerprint=version,
                choices=[],
            )
        )
        head, _, _ = empty.rpartition(b'],"usage":')
        self._head = b"data: " + head
        self._tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._usage = usage
        self._logprobs = logprobs
        self._new = set(range(choices))

    def begin(self) -> bytes:
        """Nothing: the first chunk of each choice has its role."""
        return b""

    def piece(self, delta: Delta) -> bytes:
        """A chunk."""
        role = None
        if delta.index in self._new:
            self._new.remove(delta.index)
            role = "assistant"
        calls: list[Call] | None = None
        if delta.calls:
            calls = [
                Call(
                    index=call.position,
                    id=call.id or None,
                    type="function" if call.id else None,
                    function=Function(call.arguments, call.name or None),
                )
                for call in delta.calls
            ]
        piece = Piece(
            role,
            delta.text if delta.text or (role and not calls) else None,
            delta.reasoning or None,
            calls,
        )
        logprobs = _logprobs(delta.logprobs) if self._logprobs and delta.logprobs else None
        choice = ChunkChoice(delta.index, piece, logprobs, delta.finish)
        return self._head + encode(choice) + self._tail

    def end(self, usage: Usage) -> bytes:
        """The usage, if asked for, and the mark that all is said."""
        if not self._usage:
            return DONE
        return self._head + b'],"usage":' + encode(usage_body(usage)) + b"}\n\n" + DONE

    def failed(self, error: LMaaSError) -> bytes:
        """The error; no mark."""
        return error_data(error, PATH)
