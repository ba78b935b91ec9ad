"""Image files to pixels, and pixels to a model's input array.

The same function serves training and serving, so a model sees the same numbers in both.
"""

import io
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lmaas.codecs import media
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.types import ImageSpec

MOST_STRETCHED = 64
"""Longest side of an image by its shortest one, beyond which its ends are cut off first."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
ORIENTATION: Final = 0x0112
TURNED: Final = (5, 6, 7, 8)
"""The EXIF tag, and those of its values that swap width and height."""


class Placement(NamedTuple):
    """Where an image of `width` x `height` pixels lies in a model's input: x' = x * scale_x + left.

    One place in the code makes it, lays the image down by it and takes boxes back through it.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: float
    top: float

    @classmethod
    def of(cls, size: tuple[int, int], spec: ImageSpec) -> "Placement":
        """The place that `spec.resize` gives to an image of `size` (width, height)."""
        width, height = size
        scale_x, scale_y = spec.width / width, spec.height / height
        if spec.resize == "stretch":
            return cls(width, height, scale_x, scale_y, 0.0, 0.0)
        if spec.resize == "letterbox":
            scale = min(scale_x, scale_y)
            inner = max(1, round(width * scale)), max(1, round(height * scale))
            around = (spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2
            return cls(width, height, inner[0] / width, inner[1] / height, *map(float, around))
        if spec.resize == "line":
            inner_width = min(spec.width, max(1, round(width * scale_y)))
            return cls(width, height, inner_width / width, scale_y, 0.0, 0.0)
        scale = max(scale_x, scale_y)
        left, top = (spec.width - width * scale) / 2, (spec.height - height * scale) / 2
        return cls(width, height, scale, scale, left, top)

    def put(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (…, 4) of xmin, ymin, xmax, ymax in the image, in pixels of the input."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.left, self.top] * 2)
        return np.asarray(boxes * scale + shift)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in pixels of the input as pixels of the image, cut off at its edges."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.left, self.top] * 2)
        most = np.array([self.width, self.height] * 2)
        return np.asarray(np.clip((boxes - shift) / scale, 0, most))

    def back_points(self, points: np.ndarray) -> np.ndarray:
        """Points (…, 2) in pixels of the input as pixels of the image; they may lie outside it."""
        shift = (self.left, self.top)
        return np.asarray((points - np.array(shift)) / np.array([self.scale_x, self.scale_y]))


def decode(data: bytes, spec: ImageSpec, limits: Limits) -> Image.Image:
    """See `decode_sized`: the image alone."""
    return decode_sized(data, spec, limits)[0]


def decode_sized(
    data: bytes, spec: ImageSpec, limits: Limits
) -> tuple[Image.Image, tuple[int, int]]:
    """The first frame of an image file, upright, grey ("L") or "RGB" as `spec.channels` asks; and
    the width and height of the upright original, of which a JPEG may be decoded to a part.

    Raises as `open_bounded` does.
    """
    # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the target still leaves the resize
    # a full pixel to average.
    return _upright(
        open_bounded(data, limits),
        "L" if spec.channels == 1 else "RGB",
        (spec.width * 2, spec.height * 2),
    )


def decode_whole(data: bytes, limits: Limits) -> Image.Image:
    """The first frame of an image file, upright, "RGB", in its own size. Raises as `decode`."""
    return _upright(open_bounded(data, limits), "RGB", None)[0]


def open_bounded(data: bytes, limits: Limits) -> Image.Image:
    """An image file of which only the head is read.

    Raises InvalidInput when the bytes are not an image of a known format, PayloadTooLarge when
    its header claims more pixels than the limit (nothing is decoded then).
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PayloadTooLarge(f"The image is too large: {error}") from None
    except (OSError, ValueError, SyntaxError, OverflowError):
        kind = (media.media_type_of(data) or "").upper().partition("IMAGE/")[2]
        is_other = kind and kind not in FORMATS
        what = f"{kind}, which is not read" if is_other else "not an image that can be read"
        raise InvalidInput(
            f"The input is {what}: received {media.told(data)}.",
            hint=f"Send a file of one of these formats: {', '.join(FORMATS)}.",
        ) from None
    width, height = image.size
    if width * height > limits.max_image_pixels:
        raise PayloadTooLarge(
            f"The image has {width} x {height} pixels; at most {limits.max_image_pixels} "
            "are decoded.",
            hint="Scale it down before sending.",
        )
    return image


def _upright(
    image: Image.Image, mode: str, draft: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """The image, and its width and height before it was drafted."""
    width, height = image.size
    try:
        if draft is not None:
            image.draft(mode, draft)
        turned = image.getexif().get(ORIENTATION) in TURNED
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or upright.mode == "I":
            upright = Image.fromarray((np.asarray(upright, np.uint32) >> 8).astype(np.uint8))
        return upright.convert(mode), ((height, width) if turned else (width, height))
    except (OSError, ValueError, SyntaxError, OverflowError, EOFError) as error:
        raise InvalidInput(f"The image is damaged: {error}.") from None


def is_image(data: bytes) -> bool:
    """Whether the bytes begin as an image of a known format; nothing is decoded."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS)
    except (
        Image.DecompressionBombError, Image.DecompressionBombWarning,
        OSError, ValueError, SyntaxError, OverflowError,
    ) as error:  # fmt: skip
        return isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
    return True


def to_array(
    image: Image.Image, spec: ImageSpec, dtype: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Pixels as one sample of the model's input, in the layout and units of `spec`.

    Shape: HWC, CHW, HW or flat (H*W*C) as `spec.layout` says; no batch axis. `size` is that of the
    original where the image is a smaller copy.
    """
    target = (spec.width, spec.height)
    if spec.resize == "crop":
        image = ImageOps.fit(image, target, Image.Resampling.BILINEAR)
    elif spec.resize == "short":
        side = spec.short_side or min(target)
        image = short_and_centre(image, side, target, Image.Resampling(spec.resample))
    elif spec.resize in ("letterbox", "line"):
        image = _laid_down(image, spec, size or image.size)
    elif image.size != target:
        image = image.resize(target, Image.Resampling(spec.resample))
    pixels = np.asarray(image)
    if spec.invert:
        pixels = 255 - pixels
    return from_pixels(pixels.reshape(spec.height, spec.width, spec.channels), spec, dtype)


def in_channels(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """A decoded image, grey ("L") or "RGB" as `spec.channels` asks."""
    mode = "L" if spec.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def cut_out(image: Image.Image, box: Sequence[float], margin: float = 0.0) -> Image.Image:
    """What a box (xmin, ymin, xmax, ymax in pixels) holds of an image: at least one pixel, nothing
    outside the image. `margin` is added on each side, as a share of the box's sides."""
    left, top, right, bottom = box
    wide, high = (right - left) * margin, (bottom - top) * margin
    x = min(max(math.floor(left - wide), 0), image.width - 1)
    y = min(max(math.floor(top - high), 0), image.height - 1)
    end_x = min(max(math.ceil(right + wide), x + 1), image.width)
    end_y = min(max(math.ceil(bottom + high), y + 1), image.height)
    return image.crop((x, y, end_x, end_y))


def from_pixels(pixels: np.ndarray, spec: ImageSpec, dtype: str) -> np.ndarray:
    """`(pixels * scale - mean) / std` in the layout of `spec`.

    `pixels` is (..., H, W, C) uint8: one image, or many that are computed at once.
    """
    if spec.order == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels.astype(dtype)
    if values.dtype.kind == "f":
        values *= np.asarray(spec.scale, dtype)
        if any(spec.mean) or any(std != 1 for std in spec.std):
            values -= np.asarray(spec.mean, dtype)
            values /= np.asarray(spec.std, dtype)
    if spec.layout == "CHW":
        return np.ascontiguousarray(np.moveaxis(values, -1, -3))
    if spec.layout == "flat":
        return values.reshape(*values.shape[:-3], -1)
    if spec.layout == "HW":
        return values[..., 0]
    return values


def short_and_centre(
    image: Image.Image, side: int, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """The middle (width and height `size`) of an image whose short side is made `side` pixels.

    What it lacks is black. As the image processors of `transformers` do it.
    """
    short, long = sorted(image.size)
    if long > short * MOST_STRETCHED:
        # A strip of 1 x 60,000,000 pixels would become as many times larger; its middle is all
        # that is kept of it.
        kept = short * MOST_STRETCHED
        start = (long - kept) // 2
        wide = image.width > image.height
        box = (start, 0, start + kept, short) if wide else (0, start, short, start + kept)
        image, long = image.crop(box), kept
    scaled = int(side * long / short)
    image = image.resize(
        (side, scaled) if image.width <= image.height else (scaled, side), resample
    )
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def _laid_down(image: Image.Image, spec: ImageSpec, size: tuple[int, int]) -> Image.Image:
    """The whole image where it lies in a picture of the input's size."""
    place = Placement.of(size, spec)
    inner = (round(place.width * place.scale_x), round(place.height * place.scale_y))
    if image.size != inner:
        image = image.resize(inner, Image.Resampling.BILINEAR)
    if inner == (spec.width, spec.height):
        return image
    whole = Image.new(image.mode, (spec.width, spec.height), (spec.fill,) * len(image.mode))
    whole.paste(image, (int(place.left), int(place.top)))
    return whole


def from_numbers(pixels: np.ndarray, spec: ImageSpec, dtype: str) -> np.ndarray:
    """An array of 0-255 pixels (H x W, H x W x 1 or H x W x 3, any size) as one sample."""
    flat = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if (not flat and not (pixels.ndim == 3 and pixels.shape[2] == 3)) or 0 in pixels.shape:
        raise InvalidInput(
            "Pixels must have the shape (height, width), (height, width, 1) or "
            f"(height, width, 3); received {pixels.shape}."
        )
    if pixels.size and (pixels.min() < 0 or pixels.max() > 255):
        raise InvalidInput("Pixels must lie in 0-255.")
    values = pixels.reshape(pixels.shape[:2]) if flat else pixels
    image = Image.fromarray(values.astype(np.uint8))
    return to_array(image.convert("L" if spec.channels == 1 else "RGB"), spec, dtype)
