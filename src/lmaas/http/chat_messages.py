"""Conversations as OpenAI's chat completions write them, turned into our records."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    ChatMessage,
    Detail,
    FilePart,
    Role,
    TextPart,
    ToolCall,
    content_of,
)
from lmaas.http.body import MAX_TURNS, refuse
from lmaas.http.openai_types import Body

MAX_CALLS = 128


class ImageURL(Body, frozen=True, kw_only=True):
    """An image as a `data:` URL, or a URL of a host that the operator has listed."""

    url: str
    detail: Detail | None = None


class InputAudio(Body, frozen=True, kw_only=True):
    """Audio as base64, and what kind of file it is."""

    data: str
    format: Literal["wav", "mp3"]


class ContentPart(Body, frozen=True, kw_only=True):
    """A part of a message: text, image_url or input_audio, as far as the model takes it."""

    type: str
    text: str | None = None
    image_url: ImageURL | None = None
    input_audio: InputAudio | None = None
    file: Any = None
    refusal: Any = None


class CalledFunction(Body, frozen=True, kw_only=True):
    """A function that was called; `arguments` is JSON text."""

    name: str
    arguments: str


class MadeCall(Body, frozen=True, kw_only=True):
    """A call that the model made in an earlier turn. `index` comes from streamed answers."""

    id: str
    type: Literal["function"] | None = None
    function: CalledFunction
    index: int | None = None


class ChatTurn(Body, frozen=True, kw_only=True):
    """One turn. The last fields come back from clients that send an answer again as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[tuple[ContentPart, ...], Meta(max_length=MAX_TURNS)] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[tuple[MadeCall, ...], Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    refusal: Any = None
    audio: Any = None
    function_call: Any = None
    annotations: Any = None


PARTS = ("text", "image_url", "input_audio")
"""The types of parts that are known; each has its content in the field of its name."""
AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_ECHOED: dict[str, tuple[Any, ...]] = {
    "refusal": (None,),
    "audio": (None,),
    "function_call": (None,),
    "annotations": (None, []),
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def conversation(messages: tuple[ChatTurn, ...]) -> tuple[ChatMessage, ...]:
    """All turns as records. Raises InvalidInput naming the message and field that is wrong."""
    return tuple(_turn(message, f"messages[{i}]") for i, message in enumerate(messages))


def _turn(message: ChatTurn, place: str) -> ChatMessage:
    try:
        refuse(message, _ECHOED)
    except InvalidInput as error:
        raise InvalidInput(error.message, hint=error.hint, param=f"{place}.{error.param}") from None
    role = message.role
    if message.content is None and not message.tool_calls:
        raise InvalidInput(f"{place} has no content.", param=f"{place}.content")
    if role != "assistant":
        for field in ("tool_calls", "reasoning_content"):
            if getattr(message, field):
                raise InvalidInput(
                    f"Only an assistant's message has {field}.", param=f"{place}.{field}"
                )
    if (role == "tool") != (message.tool_call_id is not None):
        raise InvalidInput(
            "A tool's message, and no other, names the call that it answers.",
            param=f"{place}.tool_call_id",
        )
    return ChatMessage(
        role=_ROLES[role],
        content=None if message.content is None else _content(message.content, role, place),
        name=message.name,
        reasoning=message.reasoning_content,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or ()
        ),
        tool_call_id=message.tool_call_id,
    )


def _content(
    content: str | tuple[ContentPart, ...], role: str, place: str
) -> str | tuple[TextPart | FilePart, ...]:
    if isinstance(content, str):
        return content
    types = PARTS if role == "user" else ("text",)
    return content_of([_piece(p, types, f"{place}.content[{i}]") for i, p in enumerate(content)])


def _piece(part: ContentPart, types: tuple[str, ...], place: str) -> str | FilePart:
    if part.type not in types:
        raise InvalidInput(
            f"{place} is of the type {part.type[:100]!r}; taken here: {', '.join(types)}.",
            param=place,
        )
    for field in part.__struct_fields__:
        given = getattr(part, field) is not None
        if field == part.type and not given:
            raise InvalidInput(f"The field {place}.{field} is missing.", param=f"{place}.{field}")
        if given and field not in ("type", part.type):
            raise InvalidInput(
                f"{field} is not supported in a part of the type {part.type}.",
                param=f"{place}.{field}",
            )
    if part.image_url is not None:
        image = part.image_url
        return FilePart(kind="image", data=image.url, place=place, detail=image.detail or "auto")
    if part.input_audio is not None:
        audio = part.input_audio
        return FilePart(kind="audio", data=audio.data, media_type=AUDIO[audio.format], place=place)
    assert part.text is not None
    return part.text
