"""What ONNX files of PaddleOCR's kind say themselves, or leave to those who know them.

A recogniser has its characters in the metadata's `character`, one a line; its blank comes first,
and often a space last that is not among them. Images are BGR, from -1 to 1, 48 high and as wide as
the line. A detector of text gives a map as large as its input, whose sides are free: it is served
at one size.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.frameworks.onnx import OnnxModel
from lmaas.types import BATCH, DetectionSpec, ImageSpec, PushOptions, ReadingSpec, TensorSpec

DETECTS, READS = "object-detection", "optical-character-recognition"
CHARACTERS: Final = "character"
"""The metadata's key."""
MOST_WIDTH: Final = 3200
"""Lines are read up to this width: sixty-six times as wide as high."""
LEAST_WIDTH: Final = 32
DRAWN_WIDTH: Final = 320
DRAWN_ROWS: Final = 2
SIDE: Final = 960
"""Of a detector's input, where nobody says another one; a multiple of 32, as its strides want."""
WIDTH: Final = "width"


class Left(msgspec.Struct, frozen=True):
    """What a sample is: its shape, and the bounds of its free axes; empty where others know."""

    shape: tuple[int, ...] = ()
    bounds: Mapping[str, tuple[int, int]] = {}


def completed(
    model: OnnxModel, inputs: Sequence[TensorSpec], options: PushOptions
) -> tuple[PushOptions, Left]:
    """The options with what the file says and what such files usually want."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        return options, Left()
    if options.task == READS:
        return _reader(model, inputs[0], options)
    if options.task == DETECTS:
        return _detector(model, inputs[0], options)
    return options, Left()


def _reader(model: OnnxModel, entry: TensorSpec, options: PushOptions) -> tuple[PushOptions, Left]:
    spec = options.reading or ReadingSpec()
    told = model.session.get_modelmeta().custom_metadata_map.get(CHARACTERS)
    if not spec.characters and told is not None:
        found = tuple(told.removesuffix("\n").split("\n"))
        spec = msgspec.structs.replace(spec, characters=found)
    (*_, classes), *others = (each.shape for each in model.session.get_outputs())
    if not others and classes == len(spec.characters) + 2 and " " not in spec.characters:
        spec = msgspec.structs.replace(spec, characters=(*spec.characters, " "))
    _, channels, height, width = entry.shape
    # Whose width is free, or who brings its characters, is of this kind.
    alike = channels == 3 and height != BATCH and (width == BATCH or told is not None)
    image = options.image
    if image is None and alike:
        image = ImageSpec(
            height=height, width=MOST_WIDTH if width == BATCH else width, channels=3, mean=(0.5,),
            std=(0.5,), resize="line", fill=127, order="BGR",
        )  # fmt: skip
    options = msgspec.structs.replace(options, reading=spec, image=image)
    free = channels != BATCH and height != BATCH and width == BATCH
    if not free or image is None or options.sample or options.dynamic is not None:
        return options, Left()
    bounds = {WIDTH: (LEAST_WIDTH, max(LEAST_WIDTH, image.width))}
    options = msgspec.structs.replace(options, dynamic={entry.name: {3: WIDTH}})
    return options, Left((DRAWN_ROWS, channels, height, DRAWN_WIDTH), bounds)


def _detector(
    model: OnnxModel, entry: TensorSpec, options: PushOptions
) -> tuple[PushOptions, Left]:
    _, channels, height, width = entry.shape
    shapes = [each.shape for each in model.session.get_outputs()]
    if channels != 3 or (height, width) != (BATCH, BATCH) or len(shapes) != 1:
        return options, Left()
    asked = options.detection
    # Their exports do not say that it is one channel; no other head has four axes and no anchors.
    if (asked is None and len(shapes[0]) != 4) or (asked is not None and asked.head != "map"):
        return options, Left()
    image = options.image or ImageSpec(
        height=SIDE, width=SIDE, mean=(0.5,), std=(0.5,), resize="letterbox", fill=127, order="BGR"
    )
    if options.sample is not None or options.dynamic is not None:
        return options, Left()
    if image.layout != "CHW" or image.height % 32 or image.width % 32:
        raise InvalidInput(
            f"A detector of text takes CHW images with sides of multiples of 32; received "
            f"{image.height} x {image.width}, {image.layout}.",
            param="image",
        )
    asked = asked or DetectionSpec(head="map", most=1000)
    options = msgspec.structs.replace(options, image=image, detection=asked, dynamic={})
    return options, Left((1, channels, image.height, image.width))
