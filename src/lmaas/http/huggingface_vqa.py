"""Questions about an image as Hugging Face's clients ask them: an answer and how likely it is.

The question is a message with the image, answered greedily; `score` is the probability of the whole
answer: the product of the probabilities of its tokens, as the model gave them.
"""

import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    ChatMessage,
    FilePart,
    GenerateRequest,
    Sampling,
    TextPart,
    check,
)
from lmaas.http import sse
from lmaas.http.body import decode
from lmaas.http.collect import collect
from lmaas.http.exchange import Exchange
from lmaas.http.openai_types import Body
from lmaas.service import Service

DEFAULT_TOKENS: Final = 32
"""Answers are short; `max_new_tokens` makes room for longer ones."""
MAX_QUESTION_CHARS: Final = 1 << 16


class Parameters(Body, frozen=True, kw_only=True):
    """How it is answered. There is one answer, so `top_k` is 1."""

    top_k: Literal[1] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None


class VqaBody(Body, frozen=True, kw_only=True):
    """A question about an image, which clients send twice, as base64."""

    question: Annotated[str, Meta(min_length=1, max_length=MAX_QUESTION_CHARS)]
    inputs: str | None = None
    image: str | None = None
    parameters: Parameters | None = None


class Answered(msgspec.Struct, frozen=True):
    """An answer, and its probability."""

    answer: str
    score: float


class _Peek(msgspec.Struct, frozen=True):
    question: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(VqaBody)
_peek = msgspec.json.Decoder(_Peek)


def is_question(body: bytes) -> bool:
    """Whether a JSON body asks a question about an image."""
    try:
        return _peek.decode(body).question is not msgspec.UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # whoever decodes it tells what is wrong


def to_request(body: VqaBody) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    image = body.image if body.image is not None else body.inputs
    if image is None:
        raise InvalidInput("The field image is missing.", param="image")
    if body.inputs not in (None, image):
        raise InvalidInput(
            "inputs and image are two images: a question is about one.",
            hint="Send image alone.",
            param="inputs",
        )
    file = FilePart(kind="image", data=image, place="image")
    given = body.parameters or Parameters()
    return check(
        GenerateRequest(
            messages=(ChatMessage(role="user", content=(file, TextPart(text=body.question))),),
            sampling=Sampling(
                max_tokens=given.max_new_tokens or DEFAULT_TOKENS, temperature=0.0, logprobs=0
            ),
        )
    )


async def answer(service: Service, exchange: Exchange, ref: str, raw: bytes) -> None:
    """Answer a question about an image with the model `ref`."""
    request = to_request(decode(raw, _decoder))
    generation = await sse.begin(service, exchange, ref, request, "models", None)
    (choice,) = await collect(generation)
    total = sum(entry.logprob for entry in choice.logprobs if entry.logprob is not None)
    told = Answered("".join(choice.text).strip(), math.exp(min(0.0, total)))
    exchange.send(sse.encode([told]))
