"""What a recipe for translation may say of its data and its network."""

from typing import Annotated, ClassVar

from msgspec import Meta

from lmaas.tasks.architectures import (
    Architecture,
    Depth,
    FeedSize,
    Shape,
    Size,
    dense_parameters,
    fill,
    undivided,
)
from lmaas.tasks.spec import DataOptions

Code = Annotated[str, Meta(pattern=r"\A[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8}){0,3}\Z")]


class PairDataOptions(DataOptions, frozen=True, kw_only=True):
    """The most tokens of a side (a longer pair is refused), how many byte pairs are learned, and
    the codes of both languages, which callers may then name.
    """

    max_length: Annotated[int, Meta(ge=4, le=4096)] = 256
    vocabulary: Annotated[int, Meta(ge=300, le=200_000)] = 4000
    source_language: Code | None = None
    target_language: Code | None = None

    def __post_init__(self) -> None:
        if (self.source_language is None) != (self.target_language is None):
            raise ValueError("source_language and target_language are given both or neither")


class EncoderDecoder(Architecture, frozen=True, kw_only=True):
    """A Transformer (Vaswani et al., 2017), normalised before each part, with one embedding for
    both sides and the output.

    `feed` are the widths inside the feed-forward parts, the encoder's first: left out, four times
    `width`.
    """

    free: ClassVar[tuple[str, int] | None] = ("feed", 1)
    width: Size = 96
    layers: Depth = 2
    heads: Depth = 4
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    feed: tuple[FeedSize, ...] = ()

    def __post_init__(self) -> None:
        fill(self, "feed", [4 * self.width] * (2 * self.layers))

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        attention = 4 * dense_parameters([self.width, self.width]) + 2 * self.width
        layers = sum(
            dense_parameters([self.width, feed, self.width]) + 2 * self.width for feed in self.feed
        )
        return (
            shape.tokens * self.width
            + 3 * self.layers * attention  # the decoder has two: its own, and the source's
            + layers
            + 2 * 2 * self.width
        )

    def contradiction(self) -> str | None:
        """See `Architecture.contradiction`."""
        if self.width % 2:
            return f"width {self.width} is odd; half of it are sines of a place, half cosines"
        return undivided(self.width, self.heads)
