"""The networks that a recipe can name: their sizes, as data for every framework.

Those of one task lie in its folder; here is what several share. Networks have no state but their
weights and act alike in training and inference: normalisation is by group or layer, never by batch,
so that a batch, its parts and its shards give one gradient.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

Size = Annotated[int, Meta(ge=1, le=65_536)]
Depth = Annotated[int, Meta(ge=1, le=64)]
FeedSize = Annotated[int, Meta(ge=1, le=4 * 65_536)]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a network reads and tells: `features` of a row or pixels of an image, in so many
    `channels`; `tokens` it tells apart, and how many `places` there are in a text at most;
    `outputs` numbers.
    """

    outputs: int = 0
    features: int = 0
    channels: int = 0
    tokens: int = 0
    places: int = 0


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all architectures' options.

    `free` is the field with the widths that nothing else is tied to, and in how many parts each
    lies. Of a ResNet and of encoder blocks the widths between blocks are those of all: every block
    adds to what came before it.
    """

    free: ClassVar[tuple[str, int] | None] = None

    def parameters(self, shape: Shape) -> int:
        """The weights and biases, as PyTorch's network has them; 0 for what is no network."""
        return 0

    def contradiction(self) -> str | None:
        """What is wrong about the options together."""
        return None


class Mlp(Architecture, frozen=True, kw_only=True):
    """Dense layers with ReLU between them; `hidden` are their widths."""

    free: ClassVar[tuple[str, int] | None] = ("hidden", 1)
    hidden: Annotated[tuple[Size, ...], Meta(max_length=64)] = (128,)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        return dense_parameters([shape.features, *self.hidden, shape.outputs])


def fill(options: Architecture, field: str, widths: list[int]) -> None:
    """Let `field` be `widths` where it is left out. Raises ValueError for another length."""
    given = getattr(options, field)
    if not given:
        msgspec.structs.force_setattr(options, field, tuple(widths))
    elif len(given) != len(widths):
        raise ValueError(f"{field} has {len(given)} widths; expected {len(widths)}, one a block")


def undivided(width: int, heads: int) -> str | None:
    """What is wrong about a width that does not divide among the heads of an attention."""
    return f"width {width} is not a multiple of heads {heads}" if width % heads else None


def dense_parameters(widths: Sequence[int]) -> int:
    """The weights and biases of dense layers from width to width."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def encoder_parameters(width: int, feeds: Sequence[int], outputs: int) -> int:
    """The weights and biases of encoder blocks, the last normalisation and a dense layer."""
    attention = dense_parameters([width, 3 * width]) + dense_parameters([width, width])
    blocks = sum(attention + 4 * width + dense_parameters([width, feed, width]) for feed in feeds)
    return blocks + 2 * width + dense_parameters([width, outputs])
