"""What a recipe for face recognition may say of its data and its network."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from lmaas.tasks.architectures import Architecture, Shape
from lmaas.tasks.spec import DataOptions

NORM_GROUPS: Final = 8
"""Channels are normalised in so many groups."""
STRIDE: Final = 16
"""The network makes images so many times smaller before it makes a vector of them."""
Side = Annotated[int, Meta(ge=2 * STRIDE, le=512, multiple_of=STRIDE)]
Width = Annotated[int, Meta(ge=NORM_GROUPS, le=2048, multiple_of=NORM_GROUPS)]


class FaceDataOptions(DataOptions, frozen=True, kw_only=True):
    """The size that faces get, and whether they are grey (1) or colour (3). Images are stretched to
    it: they are cut out alike, or laid by their points, before they are learned.
    """

    size: Side = 112
    channels: Literal[1, 3] = 3


class FaceNet(Architecture, frozen=True, kw_only=True):
    """Convolutions to strides 2, 4, 8 and 16 of `widths` channels, each but the first with a
    residual one, and a dense layer over all places: a vector of `dimensions` numbers of length 1.

    Normalised by group (Wu and He, 2018). Learned by ArcFace (Deng et al., 2019) with its `scale`
    and `margin` (radians).
    """

    widths: Annotated[tuple[Width, Width, Width, Width], Meta()] = (32, 64, 96, 128)
    dimensions: Annotated[int, Meta(ge=8, le=1024)] = 128
    scale: Annotated[float, Meta(ge=1, le=128)] = 30.0
    margin: Annotated[float, Meta(ge=0, le=1)] = 0.3

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`; with the classes' vectors, which training alone has."""
        stem, *widths = self.widths
        total = 9 * shape.channels * stem + 2 * stem
        before = stem
        for width in widths:
            total += 9 * before * width + 9 * width * width + 4 * width
            before = width
        cells = shape.features // shape.channels // STRIDE**2
        return total + (cells * before + 1) * self.dimensions + shape.outputs * self.dimensions
