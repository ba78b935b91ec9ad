"""Images as a language model reads them: pixels, then rows that stand for tokens of the prompt.

The vision tower runs here and not inside the pipeline: so no text can spell an image, the tokens of
an image are known before it is read, and it runs beside the loop that writes answers.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
import numpy as np
from PIL import Image

from lmaas.codecs import image as images
from lmaas.codecs import media
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.generation_types import FilePart
from lmaas.runtime import ov
from lmaas.runtime.language import tiles
from lmaas.types import Precision, VisionSpec

TOWER: Final = "vision_tower.xml"
"""From pixels (B, 3, H, W) to rows (B, tokens, hidden size)."""
NEWLINE: Final = "newline.safetensors"
"""The row that ends rows of tiles, as `row`."""
KEPT_BYTES: Final = 64 << 20
"""Rows of images that were read before, kept for the next turn of a conversation."""
WAITING_BYTES: Final = 128 << 20
"""Rows of images that wait to be answered about; beyond it, reading more waits for those."""
POLL_S: Final = 0.02


class Picture(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """An image as tokens: `rows` (T, hidden size) float32, and what tells it from all others."""

    rows: np.ndarray
    digest: bytes


class Pictures:
    """The vision tower in `folder`. One thread reads, any thread may count."""

    def __init__(
        self,
        folder: Path,
        spec: VisionSpec,
        precision: Precision,
        limits: Limits,
        threads: int = 0,
    ) -> None:
        self.spec = spec
        self._limits = limits
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            model = ov.core().read_model(folder / TOWER)
            compiled = ov.core().compile_model(model, "CPU", config)
        except RuntimeError as error:
            told = " ".join(str(error).split())[-200:]
            raise LMaaSError(f"The model's vision tower cannot be loaded: {told}") from None
        self._request: Any = compiled.create_infer_request()
        self._newline = read_newline(folder / NEWLINE, spec) if spec.grids else np.zeros(0)
        self._kept: OrderedDict[bytes, Picture] = OrderedDict()
        self._kept_bytes = 0
        self._alive: WeakValueDictionary[bytes, Picture] = WeakValueDictionary()

    def count(self, file: FilePart) -> int:
        """How many tokens an image takes. Raises InvalidInput, PayloadTooLarge naming the part.

        Only its head is read, unless its size counts: which side is up may stand at a file's end.
        """
        self._check_detail(file)
        data = self._bytes(file)
        try:
            image = images.open_bounded(data, self._limits)
            self._check_square(image)
            if self.spec.grids and file.detail != "low":
                image = images.decode_whole(data, self._limits)
        except (InvalidInput, PayloadTooLarge) as error:
            raise _at(file, error) from None
        return self.tokens_of(image.size, low=file.detail == "low")

    def tokens_of(self, size: tuple[int, int], *, low: bool = False) -> int:
        """How many tokens an image of this width and height takes."""
        if not self.spec.grids:
            return self.spec.tokens
        return self.spec.tokens + 1 if low else tiles.count(size, self.spec)

    def wait(self, wanted: Callable[[], bool]) -> None:
        """Wait until images that were read before are answered about, as long as it is wanted."""
        while wanted():
            alive = sum(picture.rows.nbytes for picture in self._alive.values())
            if alive - self._kept_bytes <= WAITING_BYTES:
                return
            time.sleep(POLL_S)

    def read(self, file: FilePart) -> Picture:
        """An image, decoded and seen. Raises InvalidInput, PayloadTooLarge naming the part."""
        self._check_detail(file)
        data = self._bytes(file)
        try:
            self._check_square(images.open_bounded(data, self._limits))
            image = images.decode_whole(data, self._limits)
        except (InvalidInput, PayloadTooLarge) as error:
            raise _at(file, error) from None
        return self.see(image, low=file.detail == "low")

    def see(self, image: Image.Image, *, low: bool = False) -> Picture:
        """The rows of an upright RGB image; `low`: of a small copy alone, where tiles are read."""
        if self.spec.grids and not low:
            shown = tiles.cut(image, self.spec)
            pixels = np.stack([pixels_of(tile, self.spec) for tile in shown])
        else:
            pixels = pixels_of(image, self.spec)[None]
        # What the tower is shown, and the shape of the image that it is a part of: so no two
        # images are taken for one.
        told = f"{pixels.shape} {image.size if self.spec.grids else ''}".encode()
        digest = hashlib.sha256(told + pixels.tobytes()).digest()
        known = self._kept.pop(digest, None)
        if known is None:
            known = self._alive.get(digest) or self._seen(pixels, image.size, digest, low=low)
            self._kept_bytes += known.rows.nbytes
        self._kept[digest] = known
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= gone.rows.nbytes
        return known

    def _seen(
        self, pixels: np.ndarray, size: tuple[int, int], digest: bytes, *, low: bool
    ) -> Picture:
        # One tile after the other: a batch of them would take as many times the memory.
        told = np.stack(
            [np.array(self._request.infer([each[None]])[0][0], np.float32) for each in pixels]
        )
        if told.shape[1:] != (self.spec.tokens, self.spec.numbers):
            raise LMaaSError(
                f"The vision tower gives rows of the shape {told.shape[1:]} for an image; the "
                f"signature says {(self.spec.tokens, self.spec.numbers)}."
            )
        rows = told[0]
        if self.spec.grids:
            rows = tiles.packed(told, size, self._newline, self.spec)
        assert len(rows) == self.tokens_of(size, low=low)
        self._alive[digest] = picture = Picture(rows, digest)
        return picture

    def _bytes(self, file: FilePart) -> bytes:
        return media.from_base64(file.data, self._limits, param=file.place)

    def _check_square(self, image: Image.Image) -> None:
        """A long image that is filled up to a square is as large as the square."""
        if self.spec.pad and max(image.size) ** 2 > self._limits.max_image_pixels:
            raise PayloadTooLarge(
                f"The image has {image.width} x {image.height} pixels, and this model fills it up "
                f"to a square; at most {self._limits.max_image_pixels} are decoded.",
                hint="Scale it down before sending.",
            )

    def _check_detail(self, file: FilePart) -> None:
        if file.detail == "low" and self.spec.grids:
            return
        if file.detail not in ("auto", "high"):
            raise InvalidInput(
                f"The detail {file.detail!r} is not supported: this model reads every image "
                + ("in tiles of" if self.spec.grids else "at")
                + f" {self.spec.width} x {self.spec.height} pixels.",
                hint=f"Leave it out, or send auto{', low' * bool(self.spec.grids)} or high.",
                param=f"{file.place}.detail",
            )


def read_newline(path: Path, spec: VisionSpec) -> np.ndarray:
    """The row that ends rows of tiles. Raises LMaaSError for a file that has none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        row = load_file(path)["row"]
    except (OSError, KeyError, SafetensorError) as error:
        raise LMaaSError(f"The model's {path.name} cannot be read: {error}.") from None
    if row.shape != (spec.numbers,) or not np.isfinite(row).all():
        raise LMaaSError(f"The model's {path.name} holds no row of {spec.numbers} numbers.")
    return np.asarray(row, np.float32)


def _at(file: FilePart, error: LMaaSError) -> LMaaSError:
    return type(error)(f"{file.place}: {error.message}", hint=error.hint, param=file.place)


def pixels_of(image: Image.Image, spec: VisionSpec) -> np.ndarray:
    """(3, height, width) float32, as the processors of `transformers` make it of an RGB image."""
    filter_ = Image.Resampling(spec.resample)
    if spec.pad and image.width != image.height:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in spec.mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if spec.resize == "stretch":
        image = image.resize((spec.width, spec.height), filter_)
    else:
        size = spec.width, spec.height
        image = images.short_and_centre(image, spec.short_side, size, filter_)
    values = np.asarray(image).astype(np.float32) * np.float32(spec.scale)
    values -= np.asarray(spec.mean, np.float32)
    values /= np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))
