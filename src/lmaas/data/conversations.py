"""Conversations to learn from: files of JSON objects, one a sample.

A sample is a chat (`data.chats` has its shapes), `{"prompt": ..., "completion": ...}` or
`{"text": ...}`; for preferences `{"input": {"messages": [...]}, "preferred_output": [...],
"non_preferred_output": [...]}`. Knows no tokenizer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from lmaas.data import chats, jsonl
from lmaas.data.chats import SAYING_NOTHING, Alpaca, Chat, ShareGPT, Turn
from lmaas.data.lines import check_encoding
from lmaas.data.reading import JSONL, READERS, suffix_of
from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage, Tool


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

    `place` is where it stands ("chats.jsonl, line 3"); `learned` holds the positions of the
    assistant's messages that are to be learned.
    """

    place: str
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Tool, ...] = ()
    learned: tuple[int, ...] = ()
    prompt: str = ""
    completion: str = ""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two examples that differ in how they end, from one line."""

    place: str
    preferred: Example
    other: Example


T = TypeVar("T")


class Read(NamedTuple, Generic[T]):
    """The samples of a file, and what is to be told of it."""

    samples: list[T]
    notes: tuple[str, ...]


_KINDS: Final[tuple[tuple[str, Any], ...]] = (
    ("messages", msgspec.json.Decoder(Chat)),
    ("conversations", msgspec.json.Decoder(ShareGPT)),
    ("instruction", msgspec.json.Decoder(Alpaca)),
    ("completion", msgspec.json.Decoder(Completion)),
    ("text", msgspec.json.Decoder(Plain)),
)
"""The field by which a shape is known, in the order in which they are looked for."""
_preferences: Final = msgspec.json.Decoder(Preference)
_any: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
HINT: Final = (
    'A line is {"messages": [...]}, {"conversations": [...]}, {"instruction": "…", "output": "…"}, '
    '{"prompt": "…", "completion": "…"} or {"text": "…"}.'
)


def read_examples(path: Path, encoding: str | None = None) -> Read[Example]:
    """All conversations of a file. Raises InvalidInput naming the line, or what the file is."""
    return _all(path, encoding, _example)


def read_pairs(path: Path, encoding: str | None = None) -> Read[Pair]:
    """All preferences of a file. Raises InvalidInput naming the line, or what the file is."""
    return _all(path, encoding, _pair)


def _all(
    path: Path, encoding: str | None, read: Callable[[dict[str, msgspec.Raw], str], T]
) -> Read[T]:
    kind = "a folder" if path.is_dir() else suffix_of(path)
    if READERS.get(kind) is not JSONL:
        raise InvalidInput(
            f"{path.name} is {kind.removeprefix('.')}; language models learn from JSONL (.jsonl).",
            hint=HINT,
            param="data",
        )
    if encoding is not None:
        encoding = check_encoding(encoding)
    samples: list[T] = []
    passed: set[str] = set()
    for unit, number, text in jsonl.objects(path, encoding):
        place = f"{path.name}, {unit} {number}"
        given = _decoded(_any, text, place)
        passed |= given.keys() & SAYING_NOTHING
        known = {name: value for name, value in given.items() if name not in SAYING_NOTHING}
        try:
            samples.append(read(known, place))
        except ValueError as error:
            raise InvalidInput(f"{place}: {error}.", param="data") from None
    if not samples:
        raise InvalidInput(f"{path.name} holds no samples.", param="data")
    notes = (f"Fields passed over in {path.name}: {', '.join(sorted(passed))}.",) if passed else ()
    return Read(samples, notes)


def _decoded(decoder: Any, text: str | bytes, place: str) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidInput(f"{place}: {told}.", param="data") from None


def _pair(given: dict[str, msgspec.Raw], place: str) -> Pair:
    told = _decoded(_preferences, msgspec.json.encode(given), place)
    asked = told.input.messages
    preferred, other = (
        _chat(Chat([*asked, *output], told.input.tools), place, since=len(asked))
        for output in (told.preferred_output, told.non_preferred_output)
    )
    return Pair(place=place, preferred=preferred, other=other)


def _example(given: dict[str, msgspec.Raw], place: str) -> Example:
    for key, decoder in _KINDS:
        if key in given:
            told = _decoded(decoder, msgspec.json.encode(given), place)
            if isinstance(told, Completion):
                return Example(place=place, prompt=told.prompt, completion=told.completion)
            if isinstance(told, Plain):
                return Example(place=place, completion=told.text)
            return _chat(chats.chat_of(told), place, since=0)
    raise InvalidInput(
        f"{place} has {', '.join(sorted(given)) or 'nothing'}; none of it is a sample's.",
        hint=HINT,
        param="data",
    )


def _chat(chat: Chat, place: str, *, since: int) -> Example:
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
        place=place,
        messages=tuple(map(chats.message_of, chat.messages)),
        tools=chats.tools_of(chat),
        learned=learned,
    )
