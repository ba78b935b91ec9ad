"""What a recipe for text classification may say of its data and its network."""

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from lmaas.tasks.architectures import (
    Architecture,
    Depth,
    FeedSize,
    Shape,
    Size,
    dense_parameters,
    encoder_parameters,
    fill,
    undivided,
)
from lmaas.tasks.spec import DataOptions

COMPARED: Final = "compared"


class TextDataOptions(DataOptions, frozen=True, kw_only=True):
    """The most tokens of a text (what is longer is cut), and what its tokenizer is like.

    "auto": a length that 95 of 100 texts have at most. A base has its own tokenizer, and an encoder
    takes no more tokens than it was made for.
    """

    max_length: Annotated[int, Meta(ge=4, le=8192)] | Literal["auto"] = "auto"
    vocabulary: Annotated[int, Meta(ge=300, le=200_000)] = 8000
    lowercase: bool = True


class Bag(Architecture, frozen=True, kw_only=True):
    """The mean of the tokens' embeddings, then dense layers."""

    free: ClassVar[tuple[str, int] | None] = ("hidden", 1)
    width: Size = 64
    hidden: Annotated[tuple[Size, ...], Meta(max_length=64)] = (64,)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        embedded = shape.tokens * self.width
        return embedded + dense_parameters([self.width, *self.hidden, shape.outputs])


class Transformer(Architecture, frozen=True, kw_only=True):
    """A small encoder (Vaswani et al., 2017, normalised before each part), mean of the tokens.

    `feed` are the widths inside the blocks' feed-forward parts: left out, four times `width`.
    """

    free: ClassVar[tuple[str, int] | None] = ("feed", 1)
    width: Size = 64
    depth: Depth = 2
    heads: Depth = 4
    feed: tuple[FeedSize, ...] = ()

    def __post_init__(self) -> None:
        fill(self, "feed", [4 * self.width] * self.depth)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        read = (shape.tokens + shape.places) * self.width
        return read + encoder_parameters(self.width, self.feed, shape.outputs)

    def contradiction(self) -> str | None:
        """See `Architecture.contradiction`."""
        return undivided(self.width, self.heads)


class Compared(Architecture, frozen=True, kw_only=True):
    """A linear model over n-grams of characters and a bag; the better one on held-out samples."""
