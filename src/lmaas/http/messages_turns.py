"""A conversation's turns as Anthropic's clients write them, turned into our records."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage, FilePart, ToolCall, content_of
from lmaas.http.openai_types import Body

MAX_BLOCKS = 1024


class CacheControl(Body, frozen=True, kw_only=True):
    """A wish that a prefix be cached. The prefix cache does so without being asked."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: Any = None


class Source(Body, frozen=True, kw_only=True):
    """A file: as base64, or as a URL of a host that the operator has listed."""

    type: Literal["base64", "url"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(Body, frozen=True, kw_only=True):
    """A part of a turn. Known: text, image, tool_use, tool_result, thinking."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    source: Any = None
    title: Any = None
    context: Any = None
    citations: Any = None
    caller: Any = None
    toolset_name: Any = None
    data: Any = None
    cache_control: CacheControl | None = None


Blocks = Annotated[tuple[Block, ...], Meta(max_length=MAX_BLOCKS)]


class Turn(Body, frozen=True, kw_only=True):
    """One turn: a text, or blocks. Instructions may come between the others' turns."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


_FIELDS = {
    "text": ("text",),
    "image": ("source",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
}
"""What a block of each type that is served must have."""
_BLOCKS = {
    "system": ("text",),
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking"),
}


def system_of(system: str | tuple[Block, ...] | None) -> list[str]:
    """The instructions that come first, if there are any. Raises InvalidInput."""
    if system is None or isinstance(system, str):
        return [system] if system else []
    for i, block in enumerate(system):
        _check(block, ("text",), f"system[{i}]")
    return ["\n".join(block.text or "" for block in system)] if system else []


def turns_of(turn: Turn, place: str) -> list[ChatMessage]:
    """A turn as records. Raises InvalidInput naming the block that is wrong."""
    if isinstance(turn.content, str):
        return [ChatMessage(role=turn.role, content=turn.content)]
    for i, block in enumerate(turn.content):
        _check(block, _BLOCKS[turn.role], f"{place}.content[{i}]")
    if turn.role == "assistant":
        return [_assistant(turn.content)]
    if turn.role == "system":
        return [ChatMessage(role="system", content="\n".join(b.text or "" for b in turn.content))]
    made: list[ChatMessage] = []
    pieces: list[str | FilePart] = []
    for i, block in enumerate(turn.content):
        if block.type != "tool_result":
            pieces.append(_piece(block, f"{place}.content[{i}]"))
            continue
        if pieces:
            made.append(ChatMessage(role="user", content=content_of(pieces)))
            pieces = []
        result = _result(block, f"{place}.content[{i}].content")
        made.append(
            ChatMessage(role="tool", content=content_of(result), tool_call_id=block.tool_use_id)
        )
    if pieces or not made:
        made.append(ChatMessage(role="user", content=content_of(pieces)))
    return made


def _piece(block: Block, place: str) -> str | FilePart:
    if block.type == "text":
        return block.text or ""
    try:
        source = msgspec.convert(block.source, Source)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{place}.source: {error}.", param=f"{place}.source") from None
    needed, other = ("data", "url") if source.type == "base64" else ("url", "data")
    data: str | None = getattr(source, needed)
    if data is None or getattr(source, other) is not None:
        raise InvalidInput(
            f"{place}.source of the type {source.type} has {needed}, and no {other}.",
            param=f"{place}.source",
        )
    return FilePart(kind="image", data=data, media_type=source.media_type, place=place)


def _assistant(blocks: tuple[Block, ...]) -> ChatMessage:
    text = "".join(block.text or "" for block in blocks if block.type == "text")
    calls = any(block.type == "tool_use" for block in blocks)
    return ChatMessage(
        role="assistant",
        content=text or (None if calls else ""),
        reasoning="".join(block.thinking or "" for block in blocks) or None,
        tool_calls=tuple(
            ToolCall(
                id=block.id or "",
                name=block.name or "",
                arguments=msgspec.json.encode(block.input).decode(),
            )
            for block in blocks
            if block.type == "tool_use"
        ),
    )


def _check(block: Block, types: tuple[str, ...], place: str) -> None:
    if block.type not in types:
        raise InvalidInput(
            f"{place} is of the type {block.type[:100]!r}; taken are {', '.join(types)}.",
            param=place,
        )
    for field in block.__struct_fields__:
        value = getattr(block, field)
        known = field in _FIELDS[block.type] or field in _EXTRA[block.type]
        if field in _FIELDS[block.type] and value is None:
            raise InvalidInput(f"The field {place}.{field} is missing.", param=f"{place}.{field}")
        if value is not None and not known and (field, value) != ("citations", []):
            raise InvalidInput(
                f"{field} is not supported in a block of the type {block.type}.",
                param=f"{place}.{field}",
            )


_EXTRA = {
    "text": ("type", "cache_control"),
    "image": ("type", "cache_control"),
    "tool_use": ("type", "cache_control"),
    "tool_result": ("type", "cache_control", "content", "is_error"),
    "thinking": ("type", "signature"),
}


def _result(block: Block, place: str) -> list[str | FilePart]:
    """What a tool answered; that it failed is said before it."""
    pieces: list[str | FilePart] = [block.content or ""]
    if not isinstance(block.content, str | None):
        try:
            blocks = msgspec.convert(block.content, Blocks)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{place}: {error}.", param=place) from None
        for i, inner in enumerate(blocks):
            _check(inner, ("text", "image"), f"{place}[{i}]")
        pieces = [_piece(inner, f"{place}[{i}]") for i, inner in enumerate(blocks)] or [""]
    if block.is_error and isinstance(pieces[0], str):
        pieces[0] = f"Error: {pieces[0]}"
    elif block.is_error:
        pieces.insert(0, "Error:")
    return pieces
