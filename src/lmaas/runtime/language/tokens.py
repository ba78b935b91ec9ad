"""Text to token ids and back, with the checkpoint's own tokenizer.json.

Text that comes from a caller never becomes a special token, whatever it spells: the prompt is cut
inside such spellings and the pieces are encoded one by one.
"""

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import ChatMessage, TextPart, TokenLogprob, Tool, ToolCall
from lmaas.runtime.language.engine import TokenScore
from lmaas.runtime.language.token_stream import (
    TokenStream,
    byte_tokens,
    bytes_by_sign,
    is_byte_level,
)

BREAKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Unicode's noncharacters: no text has them, so they can mark where a prompt is cut."""


class Tokens:
    """The tokenizer of one model."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise LMaaSError("The model has no tokenizer.json.", hint="Push it again.")
        self._raw = Tokenizer.from_file(str(path))
        self._raw.no_truncation()
        self._raw.no_padding()
        added = self._raw.get_added_tokens_decoder()
        self.special = {index for index, token in added.items() if token.special}
        self._spelled = any_of(token.content for token in added.values())
        spelled = [json.dumps(token.content, ensure_ascii=False)[1:-1] for token in added.values()]
        self._escaped = spelled != [token.content for token in added.values()]
        """Whether JSON may write a token otherwise, so that a text of it cannot be searched."""
        self._spelled_special = any_of(added[index].content for index in self.special)
        self.size = self._raw.get_vocab_size(with_added_tokens=True)
        self._longest = max(map(len, self._raw.get_vocab()), default=1)
        self._bytes = byte_tokens(self._raw)
        self._added = frozenset(added)
        self._byte_level = bytes_by_sign() if is_byte_level(self._raw) else {}
        self._plain = next(iter(self._raw.encode("a", add_special_tokens=False).ids[-1:]), 0)

    def id_of(self, text: str) -> int | None:
        """The id of the token that is spelled so."""
        found = self._raw.token_to_id(text)
        return None if found is None else int(found)

    def at_least(self, text: str) -> int:
        """A lower bound of the number of tokens of `text`, at no cost."""
        return len(text) // self._longest

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Ids of a text of a caller: nothing in it is a special token."""
        mark, (guarded,) = self.guard((text,))
        return self.encode_prompt(guarded, mark, add_special=add_special)

    def encode_prompt(self, prompt: str, mark: str, *, add_special: bool = False) -> list[int]:
        """Ids of a rendered prompt; `mark` is where it is cut, and is no part of it."""
        pieces = prompt.split(mark)
        ids: list[int] = []
        for position, piece in enumerate(pieces):
            first = position == 0 and add_special
            ids += self._raw.encode(piece, add_special_tokens=first).ids
        return ids

    def guard(
        self, texts: Sequence[str], *, only_special: bool = False, mark: str | None = None
    ) -> tuple[str, list[str]]:
        """The texts with a mark inside whatever spells an added token, and that mark.

        With `only_special`, tokens that are added but not special (`<think>`) are left alone.
        """
        mark = mark or free_mark(texts)
        pattern = self._spelled_special if only_special else self._spelled
        if pattern is None:
            return mark, list(texts)

        def cut(found: re.Match[str]) -> str:
            spelled = found.group()
            return spelled[0] + mark + spelled[1:] if len(spelled) > 1 else spelled

        return mark, [pattern.sub(cut, text) for text in texts]

    def guard_chat(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        more: Mapping[str, Any] | None = None,
    ) -> "Guarded":
        """A conversation, its tools and the template's variables, in which nothing is left that
        would be read as a special token.
        """
        beside = msgspec.json.encode((tools, more)).decode() if tools or more else ""
        mark = free_mark([*texts_of(messages), beside])

        def safe(text: str, *, own: bool = False) -> str:
            return self.guard((text,), only_special=own, mark=mark)[1][0]

        guarded = []
        for message in messages:
            # What a model wrote may be its own tags.
            keep = partial(safe, own=message.role == "assistant")
            content = message.content
            if isinstance(content, tuple):
                content = tuple(
                    TextPart(text=keep(part.text)) if isinstance(part, TextPart) else part
                    for part in content
                )
            elif content is not None:
                content = keep(content)
            guarded.append(
                msgspec.structs.replace(
                    message,
                    content=content,
                    name=None if message.name is None else keep(message.name),
                    reasoning=None if message.reasoning is None else keep(message.reasoning),
                    tool_calls=tuple(
                        ToolCall(id=call.id, name=keep(call.name), arguments=keep(call.arguments))
                        for call in message.tool_calls
                    ),
                )
            )
        if self._spelled is not None and (self._escaped or self._spelled.search(beside)):
            tools = [Tool(**_mapped(msgspec.structs.asdict(tool), safe)) for tool in tools]
            more = _mapped(more or {}, safe)
        return Guarded(mark, guarded, tools, more or {})

    def text_of(self, token: int) -> str:
        """One token as text, as far as it is text by itself."""
        return str(self._raw.decode([token], skip_special_tokens=False))

    def bytes_of(self, token: int, *, first: bool = False) -> bytes:
        """The bytes that a token is in a text, maybe a part of a character; `first`: that the text
        begins with, where a tokenizer may drop a blank.
        """
        if token in self._bytes:
            return bytes((self._bytes[token],))
        piece = self._raw.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level and token not in self._added:
            try:
                return bytes(self._byte_level[character] for character in piece)
            except KeyError:
                return self.text_of(token).encode()
        if first or token in self._added:
            return self.text_of(token).encode()
        context = self._raw.decode([self._plain], skip_special_tokens=False)
        whole = self._raw.decode([self._plain, token], skip_special_tokens=False)
        return str(whole[len(context) :]).encode()

    def scored(
        self, token: int, score: TokenScore, *, hidden: Container[int], first: bool = False
    ) -> TokenLogprob:
        """What is told of a token that has a score. Those that are `hidden` are no text."""

        def told(token: int) -> tuple[str, bytes | None]:
            if token in hidden:
                return self.text_of(token), None
            raw = self.bytes_of(token, first=first)
            return raw.decode("utf-8", "replace"), raw

        top = tuple((other, *told(other), value) for other, value in score.top)
        return TokenLogprob(token, *told(token), score.logprob, top)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        return str(self._raw.decode(list(ids), skip_special_tokens=True))

    def stream(self, before: Sequence[int] = ()) -> TokenStream:
        """A decoder for tokens that come one by one, after those `before`."""
        return TokenStream(self._raw, self._bytes, before)


class Guarded(NamedTuple):
    """What a prompt is rendered from, and the mark at which it is cut then."""

    mark: str
    messages: list[ChatMessage]
    tools: Sequence[Tool]
    more: Mapping[str, Any]


def free_mark(texts: Sequence[str]) -> str:
    """A noncharacter that none of the texts has."""
    for mark in BREAKS:
        if not any(mark in text for text in texts):
            return mark
    raise InvalidInput("The text holds all of Unicode's noncharacters.", param="messages")


def texts_of(messages: Sequence[ChatMessage]) -> list[str]:
    """All texts that callers wrote."""
    found = []
    for message in messages:
        found += [*message.texts, message.name or "", message.reasoning or ""]
        found += [part for call in message.tool_calls for part in (call.name, call.arguments)]
    return found


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(inner, change) for inner in value]
    return value


def any_of(spelled: Iterable[str]) -> re.Pattern[str] | None:
    """What finds the first of these texts, the longest where several begin; None for none."""
    ordered = sorted({text for text in spelled if text.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
