"""What OpenAI's text routes have in common: parts of their bodies, usage, and what they mean."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    Format,
    Sampling,
    TokenLogprob,
    Tool,
    Usage,
)

LEAST_LOGPROB = -9999.0
"""What is told instead of minus infinity, which is no JSON."""

Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Stop | Annotated[tuple[Stop, ...], Meta(max_length=MAX_STOPS)]
Count = Annotated[int, Meta(ge=1, le=1 << 30)]
Natural = Annotated[int, Meta(ge=0, le=1 << 30)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Top = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
Biases = Annotated[
    dict[int, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_LOGIT_BIAS)
]
Name = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,64}\Z")]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what callers send: unknown fields are refused."""


class SamplingBody(Body, frozen=True, kw_only=True):
    """How tokens are chosen. From `min_p` on: fields that OpenAI does not have."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_LOGIT_BIAS)
        ]
        | None
    ) = None
    seed: Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: Stops | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1 << 30)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    min_tokens: Natural | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[tuple[Natural, ...], Meta(max_length=MAX_STOPS)] | None = None

    def sampling(self, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """The same as a record, with defaults where nothing is said."""
        stop = self.stop
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            seed=self.seed,
            stop=(stop,) if isinstance(stop, str) else stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            logit_bias=self.logit_bias or {},
            logprobs=logprobs,
        )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


class StreamOptions(Body, frozen=True, kw_only=True):
    """`include_usage` adds a last chunk that has the usage and no choices."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatFunction(Body, frozen=True, kw_only=True):
    """A function that the model may call. Arguments fit `parameters` whatever `strict` says."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as a record."""
        return Tool(name=self.name, description=self.description, parameters=self.parameters)


class ChatTool(Body, frozen=True, kw_only=True):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: ChatFunction


Tools = Annotated[tuple[ChatTool, ...], Meta(max_length=MAX_TOOLS)]


class FunctionName(Body, frozen=True, kw_only=True):
    """A function by its name."""

    name: Name


class ChosenTool(Body, frozen=True, kw_only=True):
    """The one tool that must be called."""

    type: Literal["function"] | None = None
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | ChosenTool


def tool_choice(choice: "ToolChoice | None") -> str:
    """As `GenerateRequest.tool_choice` has it."""
    if isinstance(choice, ChosenTool):
        return f"={choice.function.name}"
    return choice or "auto"


class JsonSchema(Body, frozen=True, kw_only=True):
    """A schema that the answer must fit. It does, whatever `strict` says."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Body, frozen=True, kw_only=True):
    """What the answer must look like. `value` is a schema too: Hugging Face's client sends it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    value: dict[str, Any] | None = None

    def format(self) -> Format | None:
        """The same as a record; None for free text. Raises InvalidInput."""
        if (self.json_schema is None) == (self.type == "json_schema"):
            raise InvalidInput(
                "json_schema goes with the type json_schema, and only with it.",
                param="response_format.json_schema",
            )
        if self.value is not None and self.type != "json_object":
            raise InvalidInput(
                "value goes with the type json_object only.", param="response_format.value"
            )
        if self.type == "text":
            return None
        schema = self.json_schema.schema if self.json_schema is not None else self.value
        if schema is None:
            return Format(kind="json_object")
        return Format(kind="json_schema", schema=schema)


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens: how many were found in the prefix cache."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Of the tokens made: how many are reasoning."""

    reasoning_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    """Tokens of a request, over all its choices.

    `prompt_tokens_details` is null where no cached tokens are known of: OpenVINO GenAI shares
    prefixes, but does not tell how much of a prompt it found.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None
    completion_tokens_details: CompletionDetails


def usage_body(usage: Usage) -> UsageBody:
    """What a request used, as OpenAI tells it."""
    return UsageBody(
        usage.prompt,
        usage.completion,
        usage.prompt + usage.completion,
        PromptDetails(usage.cached) if usage.cached else None,
        CompletionDetails(usage.reasoning),
    )


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that could have been; `bytes` as for the one that was chosen."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct, frozen=True):
    """A token that was chosen, and what else could have been.

    The `bytes` of all together are the text; they are null for a token that is no text.
    """

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


def finite(logprob: float | None) -> float:
    """A log probability that JSON can say."""
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)


def chat_logprob(entry: TokenLogprob) -> ChatLogprob:
    """A token's log probability as chat completions and responses tell it."""
    return ChatLogprob(
        entry.token,
        finite(entry.logprob),
        _bytes(entry.raw),
        [TopLogprob(text, finite(value), _bytes(raw)) for _, text, raw, value in entry.top],
    )


def _bytes(raw: bytes | None) -> list[int] | None:
    return None if raw is None else list(raw)
