"""Images of lines as a reader takes them: of the model's height, and as wide as the widest needs.

A model with a free width gets widths of a few sizes, so that lines of different callers join.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from PIL.Image import Image

from lmaas.codecs import image
from lmaas.tasks.base import Batch
from lmaas.tasks.images import batch_of_arrays
from lmaas.types import BATCH, ImageSpec, Signature

LEAST_WIDTH: Final = 32
STEP: Final = 32
"""Widths are multiples of this, or of an eighth of their power of two."""
COST: Final = 320
"""A row of so many pixels' width is one unit of work."""


def width_axis(spec: ImageSpec) -> int:
    """Which axis of the input (batch axis first) is the width."""
    return 3 if spec.layout == "CHW" else 2


def is_wide(signature: Signature) -> bool:
    """Whether the model reads lines of any width."""
    assert signature.image is not None
    return signature.inputs[0].shape[width_axis(signature.image)] == BATCH


def width_of(size: tuple[int, int], signature: Signature) -> int:
    """The width that an image of `size` (width, height) gets in the model's input."""
    spec = signature.image
    assert spec is not None
    if not is_wide(signature):
        return spec.width
    own = max(LEAST_WIDTH, round(size[0] * spec.height / size[1]))
    step = max(STEP, 1 << max(0, own.bit_length() - 4))
    return min(-(-own // step) * step, spec.width)


def batch_of(images: Iterable[Image], signature: Signature, *, single: bool = False) -> Batch:
    """Upright images, a row for each: as wide as the widest of them gets."""
    spec, dtype = signature.image, signature.inputs[0].dtype
    assert spec is not None
    ready = [image.in_channels(each, spec) for each in images]
    width = max(width_of(each.size, signature) for each in ready)
    sized = msgspec.structs.replace(spec, width=width)
    arrays = [image.to_array(each, sized, dtype) for each in ready]
    batch = batch_of_arrays(arrays, signature, single=single)
    batch.row_cost = max(1, width // COST)
    return batch
