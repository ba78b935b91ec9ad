"""POST /v1/completions in OpenAI's shape: texts or token ids continued, one prompt or many."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import MAX_CHOICES, GenerateRequest, check
from lmaas.http import merge, sse
from lmaas.http.body import model_of, read, refuse
from lmaas.http.collect import collect
from lmaas.http.completions_answer import TextWriter, completion
from lmaas.http.exchange import Exchange
from lmaas.http.openai_types import Choices, Natural, SamplingBody, StreamOptions, Top
from lmaas.service import Service

DEFAULT_MAX_TOKENS = 16
"""What OpenAI's API makes where `max_tokens` is not given."""
MAX_IDS = 1 << 20
Id = Annotated[int, Meta(ge=0, le=1 << 31)]
Ids = Annotated[tuple[Id, ...], Meta(max_length=MAX_IDS)]


class CompletionBody(SamplingBody, frozen=True, kw_only=True):
    """Prompts to be continued: a text, texts, token ids, or lists of token ids.

    With `echo`, `logprobs` tells the prompt's tokens too; then it is not streamed. `max_tokens` 0
    goes with `echo` only. `cache` is an extension, as is what follows `min_p`. `user` only says who
    asks.
    """

    model: str | None = None
    prompt: str | Annotated[tuple[str | Id | Ids, ...], Meta(max_length=MAX_IDS)]
    n: Choices | None = None
    best_of: Choices | None = None
    max_tokens: Natural | None = None
    logprobs: Top | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache: bool | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    suffix: Any = None


_NEUTRAL: dict[str, tuple[Any, ...]] = {"suffix": (None, "")}
_decoder = msgspec.json.Decoder(CompletionBody)


def to_requests(body: CompletionBody) -> list[GenerateRequest]:
    """One record for each prompt. Raises InvalidInput naming the field that is wrong."""
    refuse(body, _NEUTRAL)
    choices, echo, stream = body.n or 1, bool(body.echo), bool(body.stream)
    if body.best_of not in (None, choices):
        raise InvalidInput("best_of is not supported beyond n.", param="best_of")
    if body.stream_options is not None and not stream:
        raise InvalidInput("stream_options goes with stream only.", param="stream_options")
    if echo and stream and body.logprobs is not None:
        raise InvalidInput(
            "echo with logprobs is not streamed.", hint="Leave out stream.", param="echo"
        )
    if body.max_tokens == 0 and not echo:
        raise InvalidInput(
            "max_tokens 0 goes with echo: true only.",
            hint="So the prompt comes back, with logprobs its log probabilities too.",
            param="max_tokens",
        )
    prompts = _prompts(body.prompt)
    if len(prompts) * choices > MAX_CHOICES:
        raise InvalidInput(
            f"{len(prompts)} prompts of {choices} choices each; together at most {MAX_CHOICES}.",
            param="prompt",
        )
    most = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = body.sampling(most, body.logprobs)
    return [
        check(
            GenerateRequest(
                prompt=prompt,
                sampling=sampling,
                choices=choices,
                echo=echo,
                prompt_logprobs=body.logprobs if echo else None,
                stream=stream,
            )
        )
        for prompt in prompts
    ]


def _prompts(given: str | tuple[str | int | Ids, ...]) -> list[str | Ids]:
    if isinstance(given, str):
        return [_not_empty(given)]
    ids = tuple(item for item in given if isinstance(item, int))
    if ids:
        if len(ids) < len(given):
            raise InvalidInput(
                "A prompt is a text, texts, token ids or lists of token ids, not a mixture.",
                param="prompt",
            )
        return [ids]
    return [_not_empty(item) for item in given if not isinstance(item, int)] or [_not_empty("")]


def _not_empty(prompt: str | Ids) -> str | Ids:
    if not prompt:
        raise InvalidInput("A prompt is empty.", param="prompt")
    return prompt


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Continue texts: OpenAI's text completions, streamed or whole."""
    body = await read(service, exchange, _decoder)
    requests = to_requests(body)
    ref = model_of(body.model, path)
    merged = await merge.begin(service, exchange, ref, requests, "completions", body.cache)
    choices = body.n or 1
    if body.stream:
        options = body.stream_options
        writer = TextWriter(
            id=exchange.id,
            model=ref,
            version=merged.version,
            usage=options is not None and bool(options.include_usage),
            choices=len(requests) * choices,
            logprobs=body.logprobs is not None,
        )
        await sse.send(exchange, merged, writer)
        return
    collected = await collect(merged, len(requests) * choices)
    answer = completion(
        id=exchange.id,
        model=ref,
        version=merged.version,
        choices=collected,
        prompts=[g.prompt_logprobs for g in merged.generations for _ in range(choices)],
        usage=merged.usage,
        logprobs=body.logprobs is not None,
    )
    exchange.send(sse.encode(answer))
