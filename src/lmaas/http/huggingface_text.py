"""Text generation as Hugging Face's clients ask for it: a prompt continued, whole or streamed.

Source: the interface of Text Generation Inference, as `huggingface_hub` and huggingface.js read it.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import (
    MAX_SEED,
    MAX_STOPS,
    Delta,
    Finish,
    Format,
    GenerateRequest,
    Sampling,
    TokenLogprob,
    Usage,
    check,
)
from lmaas.http import sse
from lmaas.http.body import decode, refuse
from lmaas.http.collect import Collected, collect
from lmaas.http.exchange import Exchange
from lmaas.http.openai_types import Body, Count, Stop, Top, finite
from lmaas.service import Service

PATH: Final = "/models/"
DEFAULT_TOKENS: Final = 100
"""What Hugging Face's servers make where `max_new_tokens` is not given."""
Reason = Literal["length", "eos_token", "stop_sequence"]


class GrammarBody(Body, frozen=True, kw_only=True):
    """What the text must fit: JSON of the schema `value`."""

    type: Literal["json", "json_schema", "regex"]
    value: Any


class TextParameters(Body, frozen=True, kw_only=True):
    """How the text is made: greedily, unless it is to be sampled or something about it is said."""

    max_new_tokens: Count | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Meta(gt=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: Annotated[tuple[Stop, ...], Meta(max_length=MAX_STOPS)] | None = None
    grammar: GrammarBody | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    return_full_text: bool | None = None
    top_n_tokens: Top | None = None
    adapter_id: Any = None
    best_of: Any = None
    truncate: Any = None
    typical_p: Any = None
    watermark: Any = None


class TextBody(Body, frozen=True, kw_only=True):
    """A prompt to be continued."""

    inputs: str
    parameters: TextParameters | None = None
    stream: bool | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token; the last piece of a stream has none of its own."""

    id: int | None
    text: str
    logprob: float
    special: bool = False


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an answer came about: whole ones have tokens, streamed ones the prompt's length."""

    finish_reason: Reason
    generated_tokens: int
    seed: int | None
    input_length: int | msgspec.UnsetType = msgspec.UNSET
    prefill: list[Token] | msgspec.UnsetType = msgspec.UNSET
    tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class Generated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole answer."""

    generated_text: str
    details: Details | None = None


class StreamPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer; the last one has all of the text."""

    index: int
    token: Token
    generated_text: str | None = None
    details: Details | None = None


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "adapter_id": (None,),
    "best_of": (None, 1),
    "truncate": (None,),
    "typical_p": (None, 1),
    "watermark": (None, False),
}
_decoder = msgspec.json.Decoder(TextBody)


def to_request(body: TextBody) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    given = body.parameters or TextParameters()
    refuse(given, _NEUTRAL)
    if not body.inputs:
        raise InvalidInput("inputs is empty.", param="inputs")
    told = given.details or given.decoder_input_details or given.top_n_tokens
    sampled = given.do_sample
    if sampled is None:
        sampled = any(v is not None for v in (given.temperature, given.top_k, given.top_p))
    temperature = 1.0 if given.temperature is None else given.temperature
    return check(
        GenerateRequest(
            prompt=body.inputs,
            sampling=Sampling(
                max_tokens=given.max_new_tokens or DEFAULT_TOKENS,
                temperature=temperature if sampled else 0.0,
                top_k=given.top_k or 0,
                top_p=1.0 if given.top_p is None else given.top_p,
                repetition_penalty=1.0
                if given.repetition_penalty is None
                else given.repetition_penalty,
                frequency_penalty=given.frequency_penalty or 0.0,
                seed=given.seed,
                stop=given.stop or (),
                logprobs=given.top_n_tokens or 0 if told or body.stream else None,
            ),
            format=_format(given.grammar),
            echo=bool(given.return_full_text),
            prompt_logprobs=0 if given.decoder_input_details else None,
            stream=bool(body.stream),
        )
    )


def _format(grammar: GrammarBody | None) -> Format | None:
    if grammar is None:
        return None
    if grammar.type == "regex" or not isinstance(grammar.value, dict):
        raise InvalidInput(
            "A grammar is of the type json, its value a schema.", param="parameters.grammar"
        )
    value = grammar.value
    if grammar.type == "json_schema" and isinstance(value.get("schema"), dict):
        value = value["schema"]
    return Format(kind="json_schema", schema=value)


async def generate(service: Service, exchange: Exchange, ref: str, raw: bytes) -> None:
    """Continue a prompt with the language model `ref`."""
    body = decode(raw, _decoder)
    request = to_request(body)
    generation = await sse.begin(service, exchange, ref, request, "models", None)
    seed = request.sampling.seed
    if request.stream:
        await sse.send(exchange, generation, TextGenerationWriter(seed))
        return
    (choice,) = await collect(generation)
    given = body.parameters or TextParameters()
    details = None
    if given.details:
        details = Details(
            finish_reason=reason_of(choice.finish, choice.stop),
            generated_tokens=generation.usage.completion,
            seed=seed,
            prefill=[_token(entry) for entry in generation.prompt_logprobs],
            tokens=[_token(entry) for entry in choice.logprobs],
            top_tokens=_top(choice) if given.top_n_tokens else msgspec.UNSET,
        )
    answer = Generated(generated_text="".join(choice.text), details=details)
    exchange.send(sse.encode([answer]))


def reason_of(finish: Finish | None, stop: str) -> Reason:
    """Why a text ended, in these clients' words."""
    if finish == "length":
        return "length"
    return "stop_sequence" if stop else "eos_token"


def _token(entry: TokenLogprob) -> Token:
    return Token(id=entry.id, text=entry.token, logprob=finite(entry.logprob))


def _top(choice: Collected) -> list[list[Token]]:
    return [
        [Token(id=id_, text=text, logprob=finite(value)) for id_, text, _, value in entry.top]
        for entry in choice.logprobs
    ]


class TextGenerationWriter:
    """A stream of tokens. Where a piece of text took several, the last of them carries it."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._texts: list[str] = []
        self._last = Delta(0)
        self._index = 0

    def begin(self) -> bytes:
        """Nothing comes before the first token."""
        return b""

    def piece(self, delta: Delta) -> bytes:
        """The tokens of a delta; its end is told with the usage."""
        self._texts.append(delta.text)
        if delta.finish is not None:
            self._last = delta
            return b""
        tokens = [
            Token(id=entry.id, text="", logprob=finite(entry.logprob)) for entry in delta.logprobs
        ] or [Token(id=None, text="", logprob=0.0)]
        tokens[-1] = msgspec.structs.replace(tokens[-1], text=delta.text)
        return b"".join(map(self._event, tokens))

    def end(self, usage: Usage) -> bytes:
        """The last piece: the rest of the text, all of it, and how it ended."""
        last = self._last
        details = Details(
            finish_reason=reason_of(last.finish, last.stop),
            generated_tokens=usage.completion,
            input_length=usage.prompt,
            seed=self._seed,
        )
        token = Token(id=None, text=last.text, logprob=0.0, special=not last.text)
        return self._event(token, "".join(self._texts), details)

    def failed(self, error: LMaaSError) -> bytes:
        """The error."""
        return sse.error_data(error, PATH)

    def _event(
        self, token: Token, text: str | None = None, details: Details | None = None
    ) -> bytes:
        self._index += 1
        piece = StreamPiece(index=self._index, token=token, generated_text=text, details=details)
        return b"data:%b\n\n" % sse.encode(piece)
