"""POST /v1/chat/completions in OpenAI's shape."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import GenerateRequest, check
from lmaas.http import sse
from lmaas.http.body import MAX_TURNS, check_metadata, model_of, read, refuse
from lmaas.http.chat_answer import ChatWriter, completion
from lmaas.http.chat_messages import ChatTurn, conversation
from lmaas.http.collect import collect
from lmaas.http.exchange import Exchange
from lmaas.http.openai_types import (
    Choices,
    Count,
    ResponseFormat,
    SamplingBody,
    StreamOptions,
    ToolChoice,
    Tools,
    Top,
    tool_choice,
)
from lmaas.http.reasoning import check_reasoning
from lmaas.service import Service

MAX_TEMPLATE_BYTES = 65_536
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ChatBody(SamplingBody, frozen=True, kw_only=True):
    """A conversation to be continued.

    `cache`, `chat_template_kwargs`, `continue_final_message` (with `add_generation_prompt` false,
    if that is said) and what follows `min_p` are extensions. `user`, `safety_identifier` and
    `prompt_cache_key` only say who asks. The fields at the end are known, but have one value.
    """

    model: str | None = None
    messages: Annotated[tuple[ChatTurn, ...], Meta(max_length=MAX_TURNS)]
    n: Choices | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    cache: bool | None = None
    metadata: dict[str, str] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    store: Any = None
    service_tier: Any = None
    modalities: Any = None
    verbosity: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    functions: Any = None
    function_call: Any = None
    tool_prompt: Any = None


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
    "modalities": (None, ["text"]),
    "verbosity": (None, "medium"),
    "prompt_cache_retention": (None, "in_memory"),
    "prompt_cache_options": (None,),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "moderation": (None,),
    "functions": (None,),
    "function_call": (None,),
    "tool_prompt": (None,),
}
_decoder = msgspec.json.Decoder(ChatBody)


def to_request(body: ChatBody) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    refuse(body, _NEUTRAL)
    check_metadata(body.metadata)
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("stream_options goes with stream only.", param="stream_options")
    tools = body.tools or ()
    continued = bool(body.continue_final_message)
    if body.add_generation_prompt not in (None, not continued):
        raise InvalidInput(
            "An answer is begun anew unless the last message is continued.",
            hint="Send continue_final_message alone.",
            param="add_generation_prompt",
        )
    return check(
        GenerateRequest(
            messages=conversation(body.messages),
            sampling=body.sampling(_max_tokens(body), _logprobs(body)),
            choices=body.n or 1,
            tools=tuple(tool.function.tool() for tool in tools),
            tool_choice=tool_choice(body.tool_choice),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            format=body.response_format.format() if body.response_format is not None else None,
            template=_template(body),
            named=tuple(body.chat_template_kwargs or ()),
            continued=continued,
            stream=bool(body.stream),
        )
    )


def _template(body: ChatBody) -> dict[str, Any]:
    """Variables for the chat template: how much to reason, and what else is asked."""
    more = body.chat_template_kwargs or {}
    if more and len(msgspec.json.encode(more)) > MAX_TEMPLATE_BYTES:
        raise InvalidInput(
            f"chat_template_kwargs has more than {MAX_TEMPLATE_BYTES} bytes.",
            param="chat_template_kwargs",
        )
    effort = body.reasoning_effort
    if effort is None:
        return more
    return {"reasoning_effort": effort, "enable_thinking": effort != "none", **more}


def _max_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidInput(
            f"max_tokens is {old}, max_completion_tokens {new}.",
            hint="Send only max_completion_tokens.",
            param="max_tokens",
        )
    return old if new is None else new


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidInput("top_logprobs needs logprobs: true.", param="top_logprobs")
    return None


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Continue a conversation: OpenAI's chat completions, streamed or whole."""
    body = await read(service, exchange, _decoder)
    request = to_request(body)
    ref = model_of(body.model, path)
    if request.template.get("enable_thinking"):
        asked = "reasoning_effort" if body.reasoning_effort is not None else "chat_template_kwargs"
        check_reasoning(await service.find(exchange.tenant, ref), asked)
    generation = await sse.begin(service, exchange, ref, request, "chat.completions", body.cache)
    version = generation.version.ref
    if request.stream:
        options = body.stream_options
        writer = ChatWriter(
            id=exchange.id,
            model=ref,
            version=version,
            usage=options is not None and bool(options.include_usage),
            choices=request.choices,
            logprobs=bool(body.logprobs),
        )
        await sse.send(exchange, generation, writer)
        return
    choices = await collect(generation, request.choices)
    exchange.send(
        sse.encode(
            completion(
                id=exchange.id,
                model=ref,
                version=version,
                choices=choices,
                usage=generation.usage,
                logprobs=bool(body.logprobs),
                metadata=body.metadata,
            )
        )
    )
