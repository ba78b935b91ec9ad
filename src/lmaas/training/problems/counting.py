"""How many parameters the networks of `architectures` have, without building one."""

import itertools
import math
from collections.abc import Sequence

import msgspec

from lmaas.training.problems.architectures import (
    BLOCKS,
    Architecture,
    Bag,
    Cnn,
    Mlp,
    ResNet18,
    Transformer,
    Vit,
)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a network reads and tells: `features` of a row or pixels of an image, in so many
    `channels`; `tokens` it tells apart, and how many `places` there are in a text at most;
    `outputs` numbers.
    """

    outputs: int
    features: int = 0
    channels: int = 0
    tokens: int = 0
    places: int = 0


def parameters(options: Architecture, shape: Shape) -> int:
    """The weights and biases of the network, as PyTorch's has them; 0 for what is no network."""
    match options:
        case Mlp():
            return _dense([shape.features, *options.hidden, shape.outputs])
        case Bag():
            embedded = shape.tokens * options.width
            return embedded + _dense([options.width, *options.hidden, shape.outputs])
        case Cnn():
            widths = [shape.channels, *options.channels]
            convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
            return convolutions + _dense([widths[-1], shape.outputs])
        case ResNet18():
            return _residual(options, shape)
        case Vit():
            count = shape.features // (shape.channels * options.patch**2)
            read = (shape.channels * options.patch**2 + 1 + count) * options.width
            return read + _encoder(options.width, options.feed, shape.outputs)
        case Transformer():
            read = (shape.tokens + shape.places) * options.width
            return read + _encoder(options.width, options.feed, shape.outputs)
        case _:
            return 0


def language_parameters(
    *, vocabulary: int, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int
) -> int:
    """The matrices of a Llama-shaped language model whose embeddings are tied."""
    head = hidden // heads
    attention = 2 * hidden * heads * head + 2 * hidden * kv_heads * head
    return vocabulary * hidden + layers * (attention + 3 * hidden * mlp)


def _dense(widths: Sequence[int]) -> int:
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def _encoder(width: int, feeds: Sequence[int], outputs: int) -> int:
    attention = _dense([width, 3 * width]) + _dense([width, width])
    blocks = sum(attention + 4 * width + _dense([width, feed, width]) for feed in feeds)
    return blocks + 2 * width + _dense([width, outputs])


def _residual(options: ResNet18, shape: Shape) -> int:
    before = options.width
    total = 9 * shape.channels * before + 2 * before
    for block, inner in enumerate(options.inner):
        channels = options.width << (block // BLOCKS)
        total += 9 * before * inner + 2 * inner + 9 * inner * channels + 2 * channels
        if before != channels:
            total += before * channels + 2 * channels
        before = channels
    return total + _dense([before, shape.outputs])


def stored(shapes: Sequence[Sequence[int]]) -> int:
    """The numbers in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)
