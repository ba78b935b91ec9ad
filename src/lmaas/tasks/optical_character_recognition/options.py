"""What a recipe for reading may say of its data and its network."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from lmaas.tasks.architectures import Architecture, Depth, Shape
from lmaas.tasks.spec import DataOptions

NORM_GROUPS: Final = 8
"""Channels are normalised in so many groups."""
ROWS: Final = 16
"""So many rows of pixels become one, and so many a height is a multiple of."""
COLUMNS: Final = 4
"""So many columns of pixels become one step."""
KERNEL: Final = 5
HEIGHT: Final = 32
Height = Annotated[int, Meta(ge=ROWS, le=256, multiple_of=ROWS)]
Width = Annotated[int, Meta(ge=2 * COLUMNS, le=4096, multiple_of=COLUMNS)]
Channels = Annotated[int, Meta(ge=NORM_GROUPS, le=2048, multiple_of=NORM_GROUPS)]


class ReadingDataOptions(DataOptions, frozen=True, kw_only=True):
    """How images and texts are read. A base has its own.

    An image becomes `height` x `width` pixels, in grey (1) or colour (3); "auto": 32 high, wide
    enough for nearly all of the images and for their texts, in colour if they are. `resize` keeps
    the proportion of an image and fills up at the right ("line"), or changes it ("stretch", for
    plates of one form). Texts are in Unicode's form NFC with single blanks, in the `case` said.
    `pattern` is the form that all texts have (see docs/ocr.md); the model reads no others then.
    """

    height: Height | Literal["auto"] = "auto"
    width: Width | Literal["auto"] = "auto"
    channels: Literal[1, 3] | Literal["auto"] = "auto"
    resize: Literal["line", "stretch"] = "line"
    case: Literal["keep", "upper", "lower"] = "keep"
    pattern: Annotated[str, Meta(max_length=256)] = ""


class CnnCtc(Architecture, frozen=True, kw_only=True):
    """Convolutions of `widths` channels that make one row of 16 and one step of 4 columns, each
    but the first with a residual one; then a dense layer of `width`, `depth` residual convolutions
    over 5 steps, and characters by CTC (Graves et al., 2006).

    Normalised by group (Wu and He, 2018).
    """

    widths: tuple[Channels, Channels, Channels, Channels] = (24, 48, 72, 96)
    width: Channels = 96
    depth: Depth = 2

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`; of `shape`, `places` are the rows of the last one."""
        first, *others = self.widths
        total = 9 * shape.channels * first + 2 * first
        for before, after in zip(self.widths, others, strict=False):
            total += 9 * after * (before + after) + 4 * after
        total += self.widths[-1] * shape.places * self.width + 3 * self.width
        total += self.depth * (KERNEL * self.width**2 + 2 * self.width)
        return total + (self.width + 1) * shape.outputs
