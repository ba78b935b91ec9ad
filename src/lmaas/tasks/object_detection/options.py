"""What a recipe for object detection may say of its data and its network."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from lmaas.tasks.architectures import Architecture, Shape
from lmaas.tasks.spec import DataOptions

NORM_GROUPS: Final = 8
"""Channels are normalised in so many groups."""
STRIDE: Final = 4
"""A cell of the network's output has so many pixels on a side."""
COARSEST: Final = 16
"""Sides of images are multiples of the coarsest stride."""
SIDES: Final = 4
Side = Annotated[int, Meta(ge=COARSEST, le=2048, multiple_of=COARSEST)]
Width = Annotated[int, Meta(ge=NORM_GROUPS, le=2048, multiple_of=NORM_GROUPS)]


class DetectionDataOptions(DataOptions, frozen=True, kw_only=True):
    """The size that images get, and whether they are grey (1) or colour (3).

    "auto": about what the first images have, 320 at most. `resize` keeps the sides' proportion and
    fills up ("letterbox"), or changes it.
    """

    height: Side | Literal["auto"] = "auto"
    width: Side | Literal["auto"] = "auto"
    channels: Literal[1, 3] | Literal["auto"] = "auto"
    resize: Literal["letterbox", "stretch"] = "letterbox"


class CenterNet(Architecture, frozen=True, kw_only=True):
    """Objects as points (Zhou et al., 2019): convolutions to strides 2, 4, 8 and 16 of `widths`
    channels, each with a residual one, back up to stride 4, and a `head` of one more.

    Normalised by group (Wu and He, 2018).
    """

    widths: Annotated[tuple[Width, Width, Width, Width], Meta()] = (32, 64, 96, 128)
    head: Width = 64

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        stem, fine, middle, coarse = self.widths
        convolutions = (
            (shape.channels, stem), (stem, fine), (fine, fine), (fine, middle), (middle, middle),
            (middle, coarse), (coarse, coarse), (middle, fine), (fine, self.head),
            (self.head, self.head),
        )  # fmt: skip
        total = sum(9 * before * after + 2 * after for before, after in convolutions)
        total += coarse * middle + 2 * middle
        return total + (self.head + 1) * (SIDES + shape.outputs)
