"""Conversations to learn from: JSON Lines in the shapes of OpenAI's fine-tuning files.

A line is `{"messages": [...], "tools": [...]}`, `{"prompt": ..., "completion": ...}` or
`{"text": ...}`; for preferences `{"input": {"messages": [...]}, "preferred_output": [...],
"non_preferred_output": [...]}`. Knows no tokenizer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from lmaas.data.lines import lines
from lmaas.data.reading import JSONL, READERS, suffix_of
from lmaas.errors import InvalidInput
from lmaas.language import ChatMessage, Tool, ToolCall


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message's content; only texts can be learned from."""

    type: Literal["text"]
    text: str


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """What was called, with its arguments as JSON text."""

    name: str
    arguments: str


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A tool call of the assistant."""

    function: Function
    id: str = ""
    type: Literal["function"] = "function"


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A message. `weight` 0 says that an assistant's turn is not to be learned."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] = []
    tool_call_id: str | None = None
    weight: Literal[0, 1] = 1


class Declared(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that was offered."""

    function: Tool
    type: Literal["function"] = "function"


class Chat(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    tools: list[Declared] = []
    parallel_tool_calls: bool = True


class Completion(msgspec.Struct, forbid_unknown_fields=True):
    """A prompt and what follows it, outside any chat."""

    prompt: str
    completion: Annotated[str, Meta(min_length=1)]


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A text, learned from its first token on."""

    text: Annotated[str, Meta(min_length=1)]


class Preference(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation and two ways to go on, one of them better."""

    input: Chat
    preferred_output: Annotated[list[Turn], Meta(min_length=1)]
    non_preferred_output: Annotated[list[Turn], Meta(min_length=1)]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One sample: messages, or for `prompt` and `completion` a text before and one to learn.

    `line` is where it stands in its file; `learned` holds the positions of the assistant's
    messages that are to be learned.
    """

    line: int
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Tool, ...] = ()
    learned: tuple[int, ...] = ()
    prompt: str = ""
    completion: str = ""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two examples that differ in how they end, from one line."""

    line: int
    preferred: Example
    other: Example


T = TypeVar("T")

_KINDS: Final[tuple[tuple[str, Any], ...]] = (
    ("messages", msgspec.json.Decoder(Chat)),
    ("completion", msgspec.json.Decoder(Completion)),
    ("text", msgspec.json.Decoder(Plain)),
)
_preferences: Final = msgspec.json.Decoder(Preference)
_any: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_examples(path: Path) -> list[Example]:
    """All conversations of a file. Raises InvalidInput naming the line, or what the file is."""
    return _all(path, _example)


def read_pairs(path: Path) -> list[Pair]:
    """All preferences of a file. Raises InvalidInput naming the line, or what the file is."""
    return _all(path, _pair)


def _all(path: Path, read: Callable[[str, str, int], T]) -> list[T]:
    kind = "a folder" if path.is_dir() else suffix_of(path)
    if READERS.get(kind) is not JSONL:
        raise InvalidInput(
            f"{path.name} is {kind.removeprefix('.')}; language models learn from JSONL (.jsonl).",
            hint='Each line is one sample: {"messages": [...]}.',
            param="data",
        )
    samples = [
        read(line, f"{path.name}, line {number}", number)
        for number, line in lines(path)
        if line.strip()
    ]
    if not samples:
        raise InvalidInput(f"{path.name} holds no samples.", param="data")
    return samples


def _decoded(decoder: Any, line: str, place: str) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidInput(f"{place}: {told}.", param="data") from None


def _pair(line: str, place: str, number: int) -> Pair:
    told = _decoded(_preferences, line, place)
    asked = told.input.messages
    preferred, other = (
        _chat(Chat([*asked, *output], told.input.tools), place, number, since=len(asked))
        for output in (told.preferred_output, told.non_preferred_output)
    )
    return Pair(line=number, preferred=preferred, other=other)


def _example(line: str, place: str, number: int) -> Example:
    given = _decoded(_any, line, place)
    for key, decoder in _KINDS:
        if key in given:
            told = _decoded(decoder, line, place)
            if isinstance(told, Chat):
                return _chat(told, place, number, since=0)
            if isinstance(told, Completion):
                return Example(line=number, prompt=told.prompt, completion=told.completion)
            return Example(line=number, completion=told.text)
    raise InvalidInput(
        f"{place} has {', '.join(sorted(given)) or 'nothing'}; expected messages, prompt and "
        "completion, or text.",
        param="data",
    )


def _chat(chat: Chat, place: str, number: int, *, since: int) -> Example:
    learned = tuple(
        i
        for i, turn in enumerate(chat.messages)
        if i >= since and turn.role == "assistant" and turn.weight
    )
    if not learned:
        raise InvalidInput(
            f"{place}: no assistant's message is there to be learned.",
            hint="A conversation ends with the answer that the model is to give.",
            param="data",
        )
    return Example(
        line=number,
        messages=tuple(_message(turn, place) for turn in chat.messages),
        tools=tuple(tool.function for tool in chat.tools),
        learned=learned,
    )


def _message(turn: Turn, place: str) -> ChatMessage:
    content = turn.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if not content and not turn.tool_calls and turn.role != "tool":
        raise InvalidInput(f"{place}: a message of the {turn.role} is empty.", param="data")
    return ChatMessage(
        role="system" if turn.role == "developer" else turn.role,
        content=content or "",
        name=turn.name,
        reasoning=turn.reasoning_content,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in turn.tool_calls
        ),
        tool_call_id=turn.tool_call_id,
    )
