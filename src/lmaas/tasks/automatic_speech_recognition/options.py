"""What a recipe for speech recognition may say of its data and its network."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from lmaas.tasks.architectures import Architecture, Depth, Shape, Size, fill
from lmaas.tasks.spec import DataOptions


class SpeechDataOptions(DataOptions, frozen=True, kw_only=True):
    """How sound and text are read. A base has its own.

    `sample_rate` in Hz, `mel_bins` bands of the spectrogram; a sound of more than `longest_s`
    seconds is refused. Texts are normalised: `case` "lower" or as they are, `punctuation` taken
    out (all but apostrophes) or kept; Unicode's form NFC and single blanks always.
    """

    sample_rate: Annotated[int, Meta(ge=4000, le=48_000)] = 16_000
    mel_bins: Annotated[int, Meta(ge=8, le=256)] = 40
    longest_s: Annotated[float, Meta(gt=0, le=300)] = 30.0
    case: Literal["lower", "keep"] = "lower"
    punctuation: Literal["remove", "keep"] = "remove"


class ConvCtc(Architecture, frozen=True, kw_only=True):
    """Two convolutions of stride 2, then blocks of a gated dense layer, a depthwise convolution
    over `kernel` steps and a dense layer (the convolution module of Gulati et al., 2020), then
    letters by CTC (Graves et al., 2006). A step is four frames of 8 ms: up to 31 letters a second.

    `inner` are the widths of the depthwise convolutions: left out, `width`.
    """

    free: ClassVar[tuple[str, int] | None] = ("inner", 1)
    width: Size = 160
    depth: Depth = 6
    kernel: Annotated[int, Meta(ge=3, le=255)] = 15
    inner: tuple[Size, ...] = ()

    def __post_init__(self) -> None:
        fill(self, "inner", [self.width] * self.depth)

    def parameters(self, shape: Shape) -> int:
        """See `Architecture.parameters`."""
        stem = 3 * shape.channels * self.width + 3 * self.width**2 + 2 * self.width
        blocks = sum(
            2 * self.width
            + 2 * inner * (self.width + 1)
            + inner * (self.kernel + 1)
            + self.width * (inner + 1)
            for inner in self.inner
        )
        return stem + blocks + 2 * self.width + (self.width + 1) * shape.outputs

    def contradiction(self) -> str | None:
        """See `Architecture.contradiction`."""
        return None if self.kernel % 2 else f"kernel {self.kernel} is even; expected an odd one"
