"""Conversations as Anthropic's clients write them, turned into our records."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from lmaas.errors import InvalidInput, ThreadUnsupported
from lmaas.generation_types import (
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOOLS,
    ChatMessage,
    Format,
    GenerateRequest,
    Sampling,
    Tool,
    check,
)
from lmaas.http.body import MAX_TURNS, refuse
from lmaas.http.messages_turns import Blocks, CacheControl, Turn, system_of, turns_of
from lmaas.http.openai_types import Body, Count

Name = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,128}\Z")]
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class MessagesTool(Body, frozen=True, kw_only=True):
    """A function that the model may call; arguments fit `input_schema` whatever `strict` says.

    They are sent as they are made, whatever `eager_input_streaming` says.
    """

    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: Any = None
    defer_loading: Any = None
    input_examples: Any = None


class MessagesToolChoice(Body, frozen=True, kw_only=True):
    """Whether and which tool is called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body, frozen=True, kw_only=True):
    """Whether the model reasons first; `budget_tokens` is told to its chat template.

    What it reasons is told as it is; nothing of it where `display` is "omitted".
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body, frozen=True, kw_only=True):
    """A schema that the answer fits."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Body, frozen=True, kw_only=True):
    """What the answer must be like; `effort` is told to the model's chat template."""

    effort: Effort | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


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
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    context_management: Any = None
    speed: Any = None
    mcp_servers: Any = None
    thread: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """A conversation to be continued: the last turn too, where it is the assistant's.

    `max_tokens` beyond the model's context means as many as fit. `output_format` is what
    `output_config.format` was called before. `cache` and `seed` are extensions.
    """

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
    inference_geo: Any = None
    diagnostics: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    billing_policy: Any = None
    compaction: Any = None


KEEP_ALL = {"type": "clear_thinking_20251015", "keep": "all"}
_COUNT_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "speed": (None, "standard"),
    "context_management": (None, {}, {"edits": []}, {"edits": [KEEP_ALL]}),
    "mcp_servers": (None, []),
    "user_profile_id": (None,),
    "workspace_id": (None,),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **_COUNT_NEUTRAL,
    "service_tier": (None, "auto", "standard_only"),
    "container": (None,),
    "inference_geo": (None,),
    "diagnostics": (None, {}, {"previous_message_id": None}),
    "fallbacks": (None, []),
    "fallback_credit_token": (None,),
    "billing_policy": (None,),
    "compaction": (None,),
}
_TOOL_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (None, ["direct"]),
    "defer_loading": (None, False),
    "input_examples": (None, []),
}


def to_request(body: CountBody) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    sampling, stream = Sampling(), False
    if body.thread is not None:
        raise ThreadUnsupported(
            "Conversations are not kept here between their turns.",
            hint="Send the whole conversation, and leave out thread.",
            param="thread",
        )
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
    messages = [ChatMessage(role="system", content=text) for text in system_of(body.system)]
    for i, turn in enumerate(body.messages):
        messages += turns_of(turn, f"messages[{i}]")
    begun = messages[-1].role == "assistant"
    if begun and body.thinking is not None and body.thinking.type != "disabled":
        raise InvalidInput(
            "The last message begins the answer, but the model is to reason before it.",
            hint="End with a message of the user, or leave out thinking.",
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
            format=_format(body),
            template=_template(body, sampling.max_tokens),
            continued=begun,
            stream=stream,
        )
    )


def _format(body: CountBody) -> Format | None:
    config = body.output_config
    asked = [body.output_format, None if config is None else config.format]
    given = [each for each in asked if each is not None]
    if len(given) > 1:
        raise InvalidInput(
            "output_format and output_config.format are one field.",
            hint="Send output_config.format alone.",
            param="output_format",
        )
    if config is not None and config.task_budget is not None:
        raise InvalidInput(
            "task_budget is not supported.", hint="Leave it out.", param="output_config.task_budget"
        )
    return Format(kind="json_schema", schema=given[0].schema) if given else None


def _tool(tool: MessagesTool, place: str) -> Tool:
    try:
        refuse(tool, _TOOL_NEUTRAL)
    except InvalidInput as error:
        param = f"{place}.{error.param}"
        raise InvalidInput(f"{place}.{error.message}", hint=error.hint, param=param) from None
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


def _template(body: CountBody, max_tokens: int | None) -> dict[str, Any]:
    """What the chat template is told."""
    told = _thinking(body.thinking, max_tokens)
    effort = None if body.output_config is None else body.output_config.effort
    if effort is None:
        return told
    # Templates know no more than OpenAI's words.
    return {"reasoning_effort": "xhigh" if effort == "max" else effort, **told}


def _thinking(thinking: Thinking | None, max_tokens: int | None) -> dict[str, Any]:
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
