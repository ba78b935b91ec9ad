"""A request as the JSON of OpenAI's API. What an upstream cannot be asked is refused by name."""

import base64
from typing import Any, Final, Literal

import msgspec

from lmaas.codecs import media
from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    ChatMessage,
    FilePart,
    Format,
    GenerateRequest,
    Part,
    Sampling,
    TextPart,
)
from lmaas.types import UpstreamSpec

NEUTRAL: Final = Sampling()
BYTES_PER_TOKEN: Final = 3
TOKENS_PER_MESSAGE: Final = 8
HEAD_CHARS: Final = 64
TOKENS_PER_IMAGE: Final = 3072
"""Rather too many: models differ from 85 to about 3,000."""

_encode = msgspec.json.Encoder().encode


class Function(msgspec.Struct, omit_defaults=True):
    """A function: described, or called with `arguments`; `strict`: they fit `parameters`."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    arguments: str | None = None
    strict: bool = False


class Call(msgspec.Struct):
    """A tool call of an earlier turn."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class ImageURL(msgspec.Struct):
    """An image as a `data:` URL."""

    url: str
    detail: str


class ContentPart(msgspec.Struct, omit_defaults=True):
    """A text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageURL | None = None


class Turn(msgspec.Struct, omit_defaults=True):
    """A turn; `content` is null where the model only called tools."""

    role: str
    content: str | list[ContentPart] | msgspec.UnsetType | None = msgspec.UNSET
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct):
    """A last chunk is to have the usage; vLLM can tell it with every chunk."""

    include_usage: bool = True
    continuous_usage_stats: bool | msgspec.UnsetType = msgspec.UNSET


class Body(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of either route; what has its default is not sent.

    `temperature` and `top_p` always are: a server may have defaults of its own.
    """

    model: str
    messages: list[Turn] | msgspec.UnsetType = msgspec.UNSET
    prompt: str | tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float
    top_p: float
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] = {}
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    response_format: Any = None
    reasoning_effort: str | None = None
    echo: bool = False
    min_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] = {}
    structured_outputs: dict[str, str] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True


MORE: Final = (
    "min_tokens", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos",
)  # fmt: skip
"""Sampling fields that only the dialect "vllm" has."""


def body_of(
    request: GenerateRequest, spec: UpstreamSpec, grammar: str | None = None
) -> tuple[str, bytes]:
    """The route below the base URL, and the body. Raises InvalidInput naming what it cannot say.

    `grammar`, which only vLLM takes, stands for the format of a chat.
    """
    sampling = request.sampling
    chat = request.prompt is None
    body = Body(
        model=spec.model,
        stream=request.stream,
        stream_options=_stream_options(spec) if request.stream else None,
        n=request.choices,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        stop=sampling.stop,
        logit_bias=sampling.logit_bias,
    )
    most = sampling.max_tokens
    if chat and most is not None and most >= spec.context_length:
        most = None  # a ceiling that cannot be reached; servers refuse it
    if chat and spec.dialect == "openai":
        body.max_completion_tokens = most
    else:
        body.max_tokens = most
    _more(body, sampling, spec)
    if chat:
        _chat(body, request, spec)
        if grammar is not None:
            body.response_format, body.structured_outputs = None, {"grammar": grammar}
    else:
        _text(body, request)
    return "/chat/completions" if chat else "/completions", _encode(body)


def estimated_tokens(request: GenerateRequest) -> int:
    """About how many tokens the prompt has, rather too many: only the upstream can count them."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        return tokens_of(request.prompt)
    size = sum(
        sum(map(_bytes, message.texts)) + sum(_bytes(call.arguments) for call in message.tool_calls)
        for message in request.messages
    )
    if request.tools:
        size += len(_encode(request.tools))
    beside = TOKENS_PER_MESSAGE * len(request.messages) + TOKENS_PER_IMAGE * len(request.files)
    return -(-size // BYTES_PER_TOKEN) + beside


def tokens_of(text: str) -> int:
    """About how many tokens a text has."""
    return -(-_bytes(text) // BYTES_PER_TOKEN)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _stream_options(spec: UpstreamSpec) -> StreamOptions:
    if spec.dialect == "vllm":
        return StreamOptions(continuous_usage_stats=True)
    return StreamOptions()


def _more(body: Body, sampling: Sampling, spec: UpstreamSpec) -> None:
    """Fields beyond OpenAI's. To who knows them all are sent, for it may have its own defaults."""
    if spec.dialect == "vllm":
        for name in MORE:
            setattr(body, name, getattr(sampling, name))
        return
    for name in MORE:
        if getattr(sampling, name) != getattr(NEUTRAL, name):
            raise _refused(name)


def _chat(body: Body, request: GenerateRequest, spec: UpstreamSpec) -> None:
    own = spec.dialect == "vllm"
    body.messages = [_turn(message, reasoning=own) for message in request.messages]
    if request.sampling.logprobs is not None:
        body.logprobs = True
        body.top_logprobs = request.sampling.logprobs
    if request.continued:
        if not own:
            raise InvalidInput(
                "This model's upstream continues no answer that is begun.",
                hint="End with a message of the user.",
                param="messages",
            )
        body.continue_final_message, body.add_generation_prompt = True, False
    if request.echo or request.prompt_logprobs is not None:
        raise InvalidInput("echo goes with a prompt only.", param="echo")
    if request.tools:
        body.tools = [
            {
                "type": "function",
                "function": Function(t.name, t.description, t.parameters, strict=own),
            }
            for t in request.tools
        ]
        choice = request.tool_choice
        body.tool_choice = (
            {"type": "function", "function": {"name": choice[1:]}}
            if choice.startswith("=")
            else choice
        )
        body.parallel_tool_calls = request.parallel_tool_calls
    if request.format is not None:
        body.response_format = _format(request.format)
    template = dict(request.template)
    if own:
        body.chat_template_kwargs = template
        return
    effort = template.pop("reasoning_effort", None)
    if isinstance(effort, str):
        body.reasoning_effort = effort
        # A door derives this from the effort; a caller's own wish is another matter.
        if template.get("enable_thinking") == (effort != "none"):
            del template["enable_thinking"]
    if template.get("enable_thinking") is False and "enable_thinking" not in request.named:
        # Where a protocol has no reasoning unless it is asked for, it is not asked for here.
        del template["enable_thinking"]
    if template:
        raise _refused("chat_template_kwargs")


def _text(body: Body, request: GenerateRequest) -> None:
    assert request.prompt is not None
    body.prompt = request.prompt
    body.echo = request.echo
    wanted = [request.sampling.logprobs, request.prompt_logprobs]
    body.logprobs = max((count for count in wanted if count is not None), default=None)
    for name, given in (
        ("response_format", request.format),
        ("tools", request.tools),
        ("chat_template_kwargs", request.template),
    ):
        if given:
            raise InvalidInput(f"{name} goes with messages only, not with a prompt.", param=name)


def _turn(message: ChatMessage, *, reasoning: bool) -> Turn:
    """A turn. What the model reasoned in earlier turns goes to vLLM only: others refuse it."""
    calls = [
        Call(call.id, Function(call.name, arguments=call.arguments)) for call in message.tool_calls
    ]
    content: str | list[ContentPart] | None = None
    if isinstance(message.content, tuple):
        content = list(map(_part, message.content))
    elif message.content or not calls:
        content = message.content
    return Turn(
        message.role,
        content,
        message.name,
        message.reasoning if reasoning else None,
        calls or None,
        message.tool_call_id,
    )


def _part(part: Part) -> ContentPart:
    if isinstance(part, TextPart):
        return ContentPart("text", text=part.text)
    assert part.kind == "image", "models of upstreams accept texts and images only"
    return ContentPart("image_url", image_url=ImageURL(_data_url(part), part.detail))


def _data_url(file: FilePart) -> str:
    """An image as a `data:` URL that says what it is. Raises InvalidInput for another URL.

    Its first bytes say so; nothing is decoded, and nobody is asked to fetch.
    """
    kind, data = file.media_type, file.data
    if data[:5].lower() == "data:":
        head, comma, data = data.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidInput(
                f"{file.place} is a data: URL without base64.",
                hint="Write it as data:MEDIA/TYPE;base64,DATA.",
                param=file.place,
            )
        kind = head[5:].partition(";")[0]
    try:
        found = media.media_type_of(base64.b64decode(data[:HEAD_CHARS], validate=True))
    except ValueError:
        raise InvalidInput(
            f"{file.place} is not base64.",
            hint="Send the file's bytes as base64.",
            param=file.place,
        ) from None
    kind = found or kind or ""
    if not kind.startswith("image/"):
        raise InvalidInput(
            f"{file.place} is no image: {kind or 'no known kind of file'}.", param=file.place
        )
    return f"data:{kind};base64,{data}"


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": wanted.schema, "strict": True},
    }


def _refused(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name} cannot be asked of this model's upstream, which speaks OpenAI's fields only.",
        hint="Leave it out, or connect the model again with the dialect vllm if its server is one.",
        param=name,
    )
