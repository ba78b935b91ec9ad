"""What a recipe for image classification may say of its data and its network."""

import itertools
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from lmaas.errors import InvalidInput
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

NORM_GROUPS = 8
"""A ResNet's channels are normalised in so many groups."""
STAGES, BLOCKS = 4, 2
"""A ResNet-18's stages, and the blocks of each."""
Side = Annotated[int, Meta(ge=1, le=4096)]


class ImageDataOptions(DataOptions, frozen=True, kw_only=True):
    """The size that images get, and whether they are grey (1) or colour (3).

    "auto": what the first images have, 128 at most. `resize` cuts the middle out ("crop") or
    changes the sides' proportion; `invert` swaps dark and light.
    """

    height: Side | Literal["auto"] = "auto"
    width: Side | Literal["auto"] = "auto"
    channels: Literal[1, 3] | Literal["auto"] = "auto"
    resize: Literal["stretch", "crop"] = "stretch"
    invert: bool = False


class Cnn(Architecture, frozen=True, kw_only=True):
    """3 x 3 convolutions with ReLU and halving after each, mean over the image, one dense layer."""

    free: ClassVar[tuple[str, int] | None] = ("channels", 1)
    channels: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=8)] = (32, 64, 128)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        widths = [shape.channels, *self.channels]
        convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
        return convolutions + dense_parameters([widths[-1], shape.outputs])


class ResNet18(Architecture, frozen=True, kw_only=True):
    """He et al., 2015, for small images: a 3 x 3 stem, no pooling before the first stage.

    Normalised by group (Wu and He, 2018). `width` is the first stage's, 64 in the paper. `inner`
    are the channels between the two convolutions of each block: left out, the stage's.
    """

    free: ClassVar[tuple[str, int] | None] = ("inner", NORM_GROUPS)
    width: Annotated[int, Meta(ge=8, le=1024, multiple_of=NORM_GROUPS)] = 64
    inner: tuple[Annotated[int, Meta(ge=8, le=8192, multiple_of=NORM_GROUPS)], ...] = ()

    def __post_init__(self) -> None:
        widths = [self.width << stage for stage in range(STAGES) for _ in range(BLOCKS)]
        fill(self, "inner", widths)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        before = self.width
        total = 9 * shape.channels * before + 2 * before
        for block, inner in enumerate(self.inner):
            channels = self.width << (block // BLOCKS)
            total += 9 * before * inner + 2 * inner + 9 * inner * channels + 2 * channels
            if before != channels:
                total += before * channels + 2 * channels
            before = channels
        return total + dense_parameters([before, shape.outputs])


class Vit(Architecture, frozen=True, kw_only=True):
    """Dosovitskiy et al., 2020, with the mean of the patches instead of a class token.

    `feed` are the widths inside the blocks' feed-forward parts: left out, four times `width`.
    """

    free: ClassVar[tuple[str, int] | None] = ("feed", 1)
    patch: Annotated[int, Meta(ge=1, le=64)] = 4
    width: Size = 64
    depth: Depth = 4
    heads: Depth = 4
    feed: tuple[FeedSize, ...] = ()

    def __post_init__(self) -> None:
        fill(self, "feed", [4 * self.width] * self.depth)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        count = shape.features // (shape.channels * self.patch**2)
        read = (shape.channels * self.patch**2 + 1 + count) * self.width
        return read + encoder_parameters(self.width, self.feed, shape.outputs)

    def contradiction(self) -> str | None:
        """See `Architecture.contradiction`."""
        return undivided(self.width, self.heads)


def count_patches(options: Vit, height: int, width: int) -> int:
    """How many patches an image has. Raises InvalidInput where they do not fit."""
    if height % options.patch or width % options.patch:
        raise InvalidInput(
            f"Images of {height} x {width} do not divide into patches of {options.patch}.",
            hint="Set data.options height and width, or model.options patch.",
            param="model.options",
        )
    return (height // options.patch) * (width // options.patch)
