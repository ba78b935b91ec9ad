"""Inputs of OpenAI's responses, turned into our records."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    MAX_TOOLS,
    ChatMessage,
    Detail,
    FilePart,
    Format,
    GenerateRequest,
    Part,
    Role,
    Tool,
    ToolCall,
    check,
    content_of,
)
from lmaas.http.body import MAX_TURNS, check_metadata, refuse
from lmaas.http.openai_types import Body, Count, Name, SamplingBody, Top

MAX_CONTENTS = 1024
LOGPROBS = "message.output_text.logprobs"
IMAGE = "input_image"
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Content(Body, frozen=True, kw_only=True):
    """A part of an item. Known: input_text, input_image, output_text, and reasoning's texts."""

    type: str
    text: str | None = None
    annotations: Any = None
    logprobs: Any = None
    image_url: str | None = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Detail | None = None
    refusal: Any = None


Contents = Annotated[tuple[Content, ...], Meta(max_length=MAX_CONTENTS)]


class Item(Body, frozen=True, kw_only=True):
    """A part of the conversation. Served: message, function_call(_output), reasoning."""

    type: str | None = None
    id: str | None = None
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Contents | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Contents | None = None
    summary: Contents | None = None
    encrypted_content: Any = None
    phase: Any = None


class ResponsesTool(Body, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A function that the model may call; arguments fit `parameters` whatever `strict` says."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Body, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """The one tool that must be called."""

    name: Name


class TextFormat(Body, frozen=True, kw_only=True):
    """What the answer must look like; it does, whatever `strict` says."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Body, frozen=True, kw_only=True):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Body, frozen=True, kw_only=True):
    """How much the model reasons. Its reasoning is given in full, so there is no summary."""

    effort: Effort | None = None
    summary: None = None
    generate_summary: None = None


class Options(Body, frozen=True, kw_only=True):
    """How it is streamed."""

    include_obfuscation: Literal[False] | None = None


class ResponsesBody(SamplingBody, frozen=True, kw_only=True):
    """What to answer. `include` may ask for the log probabilities of the text.

    `cache`, `stop`, penalties and what follows `min_p` are extensions. `user`, `safety_identifier`
    and `prompt_cache_key` only say who asks. The fields at the end are known, but have one value.
    """

    model: str
    input: str | Annotated[tuple[Item, ...], Meta(max_length=MAX_TURNS)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: Options | None = None
    max_output_tokens: Count | None = None
    top_logprobs: Top | None = None
    include: tuple[Literal["message.output_text.logprobs"], ...] | None = None
    text: TextOptions | None = None
    tools: Annotated[tuple[ResponsesTool, ...], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    cache: bool | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    truncation: Any = None
    background: Any = None
    service_tier: Any = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    context_management: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    moderation: Any = None


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "truncation": (None, "disabled"),
    "background": (None, False),
    "service_tier": (None, "auto", "default"),
    "conversation": (None,),
    "prompt": (None,),
    "max_tool_calls": (None,),
    "context_management": (None, []),
    "prompt_cache_retention": (None, "in_memory"),
    "prompt_cache_options": (None,),
    "moderation": (None,),
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_TYPES: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}
"""What an item of each type that is served must have."""
_MAY: dict[str, tuple[str, ...]] = {"reasoning": ("content", "summary")}
_KINDS = {
    "user": ("input_text", IMAGE, "text"),
    "assistant": ("output_text", "text"),
}
"""What parts a message of a role has; others have texts."""
_ECHOED: dict[str, tuple[Any, ...]] = {"annotations": ([],), "logprobs": ([],)}
"""What a part of a text may have beside it: the values that say nothing."""


def read_input(given: str | tuple[Item, ...]) -> tuple[ChatMessage, ...]:
    """The turns of an input. Raises InvalidInput naming the item and field that is wrong."""
    if isinstance(given, str):
        return (ChatMessage(role="user", content=given),)
    turns: list[ChatMessage] = []
    thought: str | None = None
    for i, item in enumerate(given):
        place = f"input[{i}]"
        _check(item, place)
        if item.type == "reasoning":
            parts = item.content or item.summary
            kinds = ("reasoning_text", "summary_text")
            thought = _text(parts, kinds, f"{place}.content") or thought
            continue
        turn = _turn(item, thought, place)
        last = turns[-1] if turns else None
        if turn.tool_calls and last is not None and last.role == "assistant" and thought is None:
            calls = (*last.tool_calls, *turn.tool_calls)
            turns[-1] = msgspec.structs.replace(last, tool_calls=calls)
        else:
            turns.append(turn)
        thought = None
    return tuple(turns)


def _turn(item: Item, thought: str | None, place: str) -> ChatMessage:
    if item.type == "function_call":
        call = ToolCall(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
        return ChatMessage(role="assistant", content=None, reasoning=thought, tool_calls=(call,))
    if item.type == "function_call_output":
        output = _content(item.output, ("input_text", IMAGE), f"{place}.output")
        return ChatMessage(role="tool", content=output, tool_call_id=item.call_id)
    assert item.role is not None, "a message has a role"
    kinds = _KINDS.get(item.role, ("input_text", "text"))
    content = _content(item.content, kinds, f"{place}.content")
    role = _ROLES[item.role]
    return ChatMessage(
        role=role, content=content, reasoning=thought if role == "assistant" else None
    )


def _check(item: Item, place: str) -> None:
    kind = item.type or "message"
    if kind not in _TYPES:
        raise InvalidInput(
            f"{place} is of the type {kind[:100]!r}; taken are {', '.join(_TYPES)}.", param=place
        )
    needed, may = _TYPES[kind], _MAY.get(kind, ())
    for field in item.__struct_fields__:
        value = getattr(item, field)
        param = f"{place}.{field}"
        if field in needed:
            if value is None:
                raise InvalidInput(f"The field {param} is missing.", param=param)
        elif value is not None and field not in may and field not in ("type", "id", "status"):
            raise InvalidInput(
                f"{field} is not supported in an item of the type {kind}.", param=param
            )


def _text(content: str | tuple[Content, ...] | None, kinds: tuple[str, ...], place: str) -> str:
    text = _content(content, kinds, place)
    assert isinstance(text, str), "no kind of a text is a file"
    return text


def _content(
    content: str | tuple[Content, ...] | None, kinds: tuple[str, ...], place: str
) -> str | tuple[Part, ...]:
    if content is None or isinstance(content, str):
        return content or ""
    return content_of([_piece(part, kinds, f"{place}[{i}]") for i, part in enumerate(content)])


def _piece(part: Content, kinds: tuple[str, ...], place: str) -> str | FilePart:
    if part.type not in kinds:
        raise InvalidInput(
            f"{place} is of the type {part.type[:100]!r}; taken here: {', '.join(kinds)}.",
            param=place,
        )
    _check_part(part, place)
    field = "image_url" if part.type == IMAGE else "text"
    given: str | None = getattr(part, field)
    if given is None:
        raise InvalidInput(f"The field {place}.{field} is missing.", param=f"{place}.{field}")
    if part.type != IMAGE:
        return given
    return FilePart(kind="image", data=given, place=place, detail=part.detail or "auto")


def _check_part(part: Content, place: str) -> None:
    for field in part.__struct_fields__:
        value = getattr(part, field)
        # An answer that comes back has the log probabilities that it was told with.
        answered = field == "logprobs" and part.type == "output_text"
        own = ("type", "image_url", "detail") if part.type == IMAGE else ("type", "text")
        if value is None or field in own or answered:
            continue
        if value not in _ECHOED.get(field, ()):
            raise InvalidInput(
                f"{field} is not supported in a part of the type {part.type}.",
                param=f"{place}.{field}",
            )


def to_request(
    body: ResponsesBody, earlier: tuple[ChatMessage, ...], given: tuple[ChatMessage, ...]
) -> GenerateRequest:
    """What is asked for, after the turns `earlier`. Raises InvalidInput naming what is wrong."""
    refuse(body, _NEUTRAL)
    check_metadata(body.metadata)
    if not given:
        raise InvalidInput("The input is empty.", param="input")
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("stream_options goes with stream only.", param="stream_options")
    told = bool(body.include)
    if body.top_logprobs and not told:
        raise InvalidInput(f"top_logprobs needs {LOGPROBS!r} in include.", param="top_logprobs")
    instructions = body.instructions
    first = (ChatMessage(role="system", content=instructions),) if instructions else ()
    choice = body.tool_choice
    effort = body.reasoning.effort if body.reasoning is not None else None
    return check(
        GenerateRequest(
            messages=(*first, *earlier, *given),
            sampling=body.sampling(
                body.max_output_tokens, (body.top_logprobs or 0) if told else None
            ),
            tools=tuple(_tool(tool) for tool in body.tools or ()),
            tool_choice=f"={choice.name}"
            if isinstance(choice, FunctionChoice)
            else choice or "auto",
            parallel_tool_calls=body.parallel_tool_calls is not False,
            format=_format(body.text.format if body.text is not None else None),
            template={}
            if effort is None
            else {"reasoning_effort": effort, "enable_thinking": effort != "none"},
            stream=bool(body.stream),
        )
    )


def _tool(tool: ResponsesTool) -> Tool:
    return Tool(name=tool.name, description=tool.description, parameters=tool.parameters)


def _format(given: TextFormat | None) -> Format | None:
    if given is None:
        return None
    if given.type != "json_schema":
        for field in ("name", "description", "schema", "strict"):
            if getattr(given, field) is not None:
                raise InvalidInput(
                    f"{field} goes with the type json_schema only.", param=f"text.format.{field}"
                )
        return Format(kind="json_object") if given.type == "json_object" else None
    for field in ("name", "schema"):
        if getattr(given, field) is None:
            param = f"text.format.{field}"
            raise InvalidInput(f"The field {param} is missing.", param=param)
    return Format(kind="json_schema", schema=given.schema or {})
