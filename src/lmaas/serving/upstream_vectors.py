"""Vectors of texts as OpenAI's API asks for them and tells them."""

import base64
import binascii
from typing import Any, Literal

import msgspec
import numpy as np

from lmaas.errors import Unavailable
from lmaas.serving.upstream_answer import read
from lmaas.serving.upstream_body import tokens_of
from lmaas.types import TextsCall, UpstreamSpec


class Body(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The request. Base64 takes a third of the bytes of numbers, and less to read."""

    model: str
    input: tuple[str | tuple[int, ...], ...]
    encoding_format: Literal["base64"]
    dimensions: int | None = None


class Vector(msgspec.Struct):
    """One vector: base64 of little-endian float32, or numbers from who knows no base64."""

    index: int
    embedding: str | list[float]


class Used(msgspec.Struct):
    """Tokens read."""

    prompt_tokens: int = 0


class Message(msgspec.Struct):
    """The answer; some services tell an error with status 200."""

    data: list[Vector] = []
    usage: Used | None = None
    error: Any = None


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Message)


def body_of(call: TextsCall, spec: UpstreamSpec) -> bytes:
    """The body for `/embeddings`."""
    return _encode(
        Body(
            model=spec.model,
            input=call.texts,
            encoding_format="base64",
            dimensions=call.dimensions,
        )
    )


def estimated_tokens(call: TextsCall) -> int:
    """About how many tokens the texts have, rather too many."""
    return sum(tokens_of(text) if isinstance(text, str) else len(text) for text in call.texts)


def decode(answer: bytes, origin: str) -> Message:
    """Raises Unavailable for what is no answer."""
    return read(_decoder, answer, origin)


def rows_of(message: Message, count: int, origin: str) -> np.ndarray:
    """The vectors (count, D) in the order of the texts, float32.

    Raises Unavailable unless there is one of finite numbers for each text, all of one length.
    """
    found = {vector.index: vector.embedding for vector in message.data}
    if len(message.data) != count or found.keys() != set(range(count)):
        raise Unavailable(f"{origin} gave {len(message.data)} vectors for {count} texts.")
    try:
        rows = [_row(found[index]) for index in range(count)]
    except (binascii.Error, ValueError) as error:
        raise Unavailable(f"{origin} gave a vector that is none: {error}.") from None
    if not rows[0].size or any(row.size != rows[0].size for row in rows):
        raise Unavailable(f"{origin} gave vectors that are empty or differ in length.")
    vectors = np.stack(rows)
    if not np.isfinite(vectors).all():
        raise Unavailable(f"{origin} gave vectors with NaN or infinity.")
    return vectors


def _row(embedding: str | list[float]) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    with np.errstate(over="ignore"):
        return np.array(embedding, "<f4")
