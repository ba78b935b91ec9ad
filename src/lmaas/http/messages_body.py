"""Conversations as Anthropic's clients write them, turned into our records."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.http.body import MAX_TURNS, refuse
from lmaas.http.openai_types import Body, Count, Name
from lmaas.language import (
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOOLS,
    ChatMessage,
    GenerateRequest,
    Sampling,
    Tool,
    ToolCall,
    check,
)

MAX_BLOCKS = 1024


class CacheControl(Body, frozen=True, kw_only=True):
    """A wish that a prefix be cached. The prefix cache does so without being asked."""

    type: Literal["ephemeral"]
    ttl: Literal["5m"] | None = None


class Block(Body, frozen=True, kw_only=True):
    """A part of a turn. Served: text, tool_use, tool_result, thinking."""

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
    """One turn: a text, or blocks."""

    role: Literal["user", "assistant"]
    content: str | Blocks


class MessagesTool(Body, frozen=True, kw_only=True):
    """A function that the model may call; arguments fit `input_schema` whatever `strict` says."""

    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class MessagesToolChoice(Body, frozen=True, kw_only=True):
    """Whether and which tool is called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body, frozen=True, kw_only=True):
    """Whether the model reasons first; `budget_tokens` is told to its chat template."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None


class Metadata(Body, frozen=True, kw_only=True):
    """Who asks."""

    user_id: Annotated[str, Meta(max_length=512)] | None = None


class CountBody(Body, frozen=True, kw_only=True):
    """A conversation whose tokens are counted."""

    model: str
    messages: Annotated[tuple[Turn, ...], Meta(max_length=MAX_TURNS)]
    system: str | Blocks | None = None
    tools: Annotated[tuple[MessagesTool, ...], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl | None = None
    output_config: Any = None
    speed: Any = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """A conversation to be continued. `cache` and `seed` are extensions."""

    max_tokens: Count
    stop_sequences: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)], ...],
            Meta(max_length=MAX_STOPS),
        ]
        | None
    ) = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    seed: Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    cache: bool | None = None
    service_tier: Any = None
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None
    inference_geo: Any = None


_COUNT_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "output_config": (None,),
    "speed": (None, "standard"),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **_COUNT_NEUTRAL,
    "service_tier": (None, "auto", "standard_only"),
    "container": (None,),
    "mcp_servers": (None, []),
    "context_management": (None,),
    "inference_geo": (None,),
}
_FIELDS = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
}
"""What a block of each type that is served must have."""
_BLOCKS = {"user": ("text", "tool_result"), "assistant": ("text", "tool_use", "thinking")}


def to_request(body: CountBody) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    sampling, stream = Sampling(), False
    if isinstance(body, MessagesBody):
        refuse(body, _NEUTRAL)
        stream = bool(body.stream)
        sampling = Sampling(
            max_tokens=body.max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            seed=body.seed,
            stop=body.stop_sequences or (),
        )
    else:
        refuse(body, _COUNT_NEUTRAL)
    if not body.messages:
        raise InvalidInput("There are no messages.", param="messages")
    if sum(len(turn.content) for turn in body.messages if not isinstance(turn.content, str)) > (
        MAX_TURNS
    ):
        raise InvalidInput(f"There are more than {MAX_TURNS} blocks.", param="messages")
    messages = [ChatMessage(role="system", content=text) for text in _system(body.system)]
    for i, turn in enumerate(body.messages):
        messages += _turn(turn, f"messages[{i}]")
    if messages[-1].role == "assistant":
        raise InvalidInput(
            "The last message is the assistant's: an answer that is begun is not supported.",
            hint="End with a message of the user.",
            param="messages",
        )
    choice = body.tool_choice
    return check(
        GenerateRequest(
            messages=tuple(messages),
            sampling=sampling,
            tools=tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ())),
            tool_choice=_choice(choice),
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            template=_template(body.thinking, sampling.max_tokens),
            stream=stream,
        )
    )


def _system(system: str | tuple[Block, ...] | None) -> list[str]:
    if system is None or isinstance(system, str):
        return [system] if system else []
    for i, block in enumerate(system):
        _check(block, ("text",), f"system[{i}]")
    return ["\n".join(block.text or "" for block in system)] if system else []


def _turn(turn: Turn, place: str) -> list[ChatMessage]:
    if isinstance(turn.content, str):
        return [ChatMessage(role=turn.role, content=turn.content)]
    for i, block in enumerate(turn.content):
        _check(block, _BLOCKS[turn.role], f"{place}.content[{i}]")
    if turn.role == "assistant":
        return [_assistant(turn.content)]
    made: list[ChatMessage] = []
    texts: list[str] = []
    for i, block in enumerate(turn.content):
        if block.type == "text":
            texts.append(block.text or "")
            continue
        if texts:
            made.append(ChatMessage(role="user", content="\n".join(texts)))
            texts = []
        text = _result(block.content, f"{place}.content[{i}].content")
        made.append(
            ChatMessage(
                role="tool",
                content=f"Error: {text}" if block.is_error else text,
                tool_call_id=block.tool_use_id,
            )
        )
    if texts or not made:
        made.append(ChatMessage(role="user", content="\n".join(texts)))
    return made


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
    "tool_use": ("type", "cache_control"),
    "tool_result": ("type", "cache_control", "content", "is_error"),
    "thinking": ("type", "signature"),
}


def _result(content: Any, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    try:
        blocks = msgspec.convert(content, Blocks)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{place}: {error}.", param=place) from None
    for i, block in enumerate(blocks):
        _check(block, ("text",), f"{place}[{i}]")
    return "\n".join(block.text or "" for block in blocks)


def _tool(tool: MessagesTool, place: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidInput(
            f"{place} is of the type {tool.type!r}; only tools with an input_schema are taken.",
            param=f"{place}.type",
        )
    if tool.input_schema is None:
        raise InvalidInput(
            f"The field {place}.input_schema is missing.", param=f"{place}.input_schema"
        )
    return Tool(name=tool.name, description=tool.description, parameters=tool.input_schema)


def _choice(choice: MessagesToolChoice | None) -> str:
    if choice is None or choice.type == "auto":
        return "auto"
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidInput(
            "A name goes with the type tool, and only with it.", param="tool_choice.name"
        )
    if choice.type == "tool":
        return f"={choice.name}"
    return "required" if choice.type == "any" else "none"


def _template(thinking: Thinking | None, max_tokens: int | None) -> dict[str, Any]:
    """Without `thinking` there is none: so Anthropic's API has it."""
    if thinking is None:
        return {"enable_thinking": False}
    budget = thinking.budget_tokens
    if (budget is None) == (thinking.type == "enabled"):
        raise InvalidInput(
            "budget_tokens goes with the type enabled, and only with it.",
            param="thinking.budget_tokens",
        )
    if budget is None:
        return {"enable_thinking": False} if thinking.type == "disabled" else {}
    if max_tokens is not None and budget >= max_tokens:
        raise InvalidInput(
            f"thinking.budget_tokens is {budget}, max_tokens {max_tokens}: no token is left for "
            "the answer.",
            hint="Ask for more with max_tokens.",
            param="thinking.budget_tokens",
        )
    return {"enable_thinking": True, "thinking_budget": budget}
