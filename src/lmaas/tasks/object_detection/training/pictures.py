"""Training images and their boxes as the network reads them: pixels in a mapped file, boxes in
pixels of the input.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from lmaas.codecs import image as codec
from lmaas.codecs.image import Placement
from lmaas.codecs.limits import Limits
from lmaas.data.annotations.marked import SLACK, Box, check
from lmaas.data.table import Table
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.tasks.object_detection.options import COARSEST, DetectionDataOptions
from lmaas.types import ImageSpec

LOOKED_AT: Final = 200
"""Of how many images sizes and colours are seen where a recipe leaves them open."""
LARGEST_AUTO: Final = 320
GREY: Final = 8
"""How far the channels of a grey image may differ: JPEG rounds."""
COLUMNS: Final = 6
"""Class number, four corners, whether it is a crowd."""
HINT: Final = (
    "Give a folder or zip with COCO JSON, YOLO labels, Pascal VOC, or JSONL as "
    '{"image": "1.png", "boxes": [{"label": "cat", "box": [4, 2, 30, 20]}]}.'
)


class Pictures(NamedTuple):
    """A table's images (N, H, W, C) uint8, and the boxes (n, 6) of each."""

    pixels: np.ndarray
    boxes: list[np.ndarray]


def annotations(table: Table, column: str) -> list[tuple[bool, list[Box]]]:
    """Of each image whether corners are shares of its sides, and its boxes. Raises InvalidInput."""
    found = []
    for index, value in enumerate(table.values(column)):
        try:
            shares, boxes = value
            found.append((bool(shares), msgspec.convert(boxes, list[Box])))
        except (TypeError, ValueError, msgspec.ValidationError):
            raise InvalidInput(
                f"{table.place(index)}: {column!r} holds no boxes.", hint=HINT, param="data"
            ) from None
    return found


def labels_of(table: Table, column: str) -> tuple[str, ...]:
    """The classes of all boxes, in order, numbers by size. Raises InvalidInput without a box."""
    names = sorted({box.label for _, boxes in annotations(table, column) for box in boxes})
    if not names:
        raise InvalidInput(f"{table.name} has no box.", param="data")
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)


def spec_of(
    table: Table, column: str, options: DetectionDataOptions, layout: Literal["CHW", "HWC"]
) -> ImageSpec:
    """The size and colour that the recipe says, or that the first images have."""
    channels, height, width = options.channels, options.height, options.width
    if "auto" in (channels, height, width):
        as_it_is = ImageSpec(height=4096, width=4096, channels=3)
        rows = np.linspace(0, len(table) - 1, min(LOOKED_AT, len(table))).astype(int)
        seen = [_open(table, column, row, as_it_is)[0] for row in rows.tolist()]
        sides = np.median([picture.size for picture in seen], axis=0)
        scale = min(1.0, LARGEST_AUTO / sides.max())
        auto = np.maximum(np.ceil(sides * scale / COARSEST), 2).astype(int) * COARSEST
        small = np.stack([np.asarray(picture.resize((32, 32)), np.int16) for picture in seen])
        colour = bool((small.max(axis=3) - small.min(axis=3)).max() > GREY)
        width = int(auto[0]) if width == "auto" else width
        height = int(auto[1]) if height == "auto" else height
        channels = (3 if colour else 1) if channels == "auto" else channels
    assert height != "auto"
    assert width != "auto"
    assert channels != "auto"
    return ImageSpec(
        height=height, width=width, channels=channels, layout=layout, resize=options.resize
    )


def standardised(image: ImageSpec, pixels: np.ndarray, rows: np.ndarray) -> ImageSpec:
    """The spec with the mean and deviation that each channel has in the training images."""
    part = np.asarray(pixels[rows[:: max(1, len(rows) // 2000)]], np.float64) / 255
    mean, std = part.mean(axis=(0, 1, 2)), part.std(axis=(0, 1, 2))
    return msgspec.structs.replace(
        image,
        mean=tuple(round(float(m), 4) for m in mean),
        std=tuple(max(round(float(s), 4), 0.01) for s in std),
    )


def read(
    table: Table,
    columns: Mapping[str, str],
    spec: ImageSpec,
    labels: tuple[str, ...],
    folder: Path,
) -> Pictures:
    """All images and boxes of a table. Raises InvalidInput naming the image or the box's place."""
    pixels, sizes = _decoded(table, columns["image"], spec, folder)
    numbers = {label: number for number, label in enumerate(labels)}
    found = []
    for index, (shares, boxes) in enumerate(annotations(table, columns["boxes"])):
        width, height = sizes[index].tolist()
        place = Placement.of((width, height), spec)
        rows = np.zeros((len(boxes), COLUMNS))
        for row, box in zip(rows, boxes, strict=True):
            if box.label not in numbers:
                raise InvalidInput(
                    f"{box.place or table.place(index)}: unknown class {box.label!r}; learned are "
                    f"{', '.join(map(repr, labels[:20]))}.",
                    param="data",
                )
            scaled = _in_pixels(box, width, height) if shares else box
            cut = check(scaled, (width, height), SLACK)
            row[:] = numbers[box.label], *place.put(np.array(cut.corners)), box.crowd
        found.append(rows)
    return Pictures(pixels, found)


def _in_pixels(box: Box, width: int, height: int) -> Box:
    return msgspec.structs.replace(
        box, xmin=box.xmin * width, ymin=box.ymin * height, xmax=box.xmax * width,
        ymax=box.ymax * height,
    )  # fmt: skip


def _open(table: Table, column: str, row: int, spec: ImageSpec) -> tuple[Any, tuple[int, int]]:
    try:
        return codec.decode_sized(table.content(column, row), spec, Limits())
    except (InvalidInput, PayloadTooLarge) as error:
        name = table.values(column, [row])[0]
        place = f"{table.name}, {name}" if isinstance(name, str) else table.place(row)
        raise InvalidInput(f"{place}: {error.message}", param="data") from None


def _decoded(
    table: Table, column: str, spec: ImageSpec, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """All images, (N, H, W, C) uint8, and their widths and heights, from mapped files that are
    made once.
    """
    plain = msgspec.structs.replace(spec, layout="HWC", scale=1.0, mean=(0.0,), std=(1.0,))
    told = msgspec.json.encode((table.digest, column, plain))
    path = folder / f"{hashlib.sha256(told).hexdigest()}.pixels"
    beside = path.with_suffix(".sizes")
    shape = (len(table), spec.height, spec.width, spec.channels)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        mark = f"{np.random.default_rng().integers(1 << 40):x}"
        part, part_beside = path.with_suffix(f".{mark}"), beside.with_suffix(f".{mark}s")
        try:
            pixels = np.memmap(part, np.uint8, "w+", shape=shape)
            sizes = np.memmap(part_beside, np.int64, "w+", shape=(len(table), 2))
            for row in range(len(table)):
                picture, sizes[row] = _open(table, column, row, plain)
                pixels[row] = codec.to_array(picture, plain, "uint8", tuple(sizes[row].tolist()))
            pixels.flush()
            sizes.flush()
            part_beside.replace(beside)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
            part_beside.unlink(missing_ok=True)
    # As plain arrays: numpy's own class for mapped files makes every access dearer.
    return (
        np.asarray(np.memmap(path, np.uint8, "r", shape=shape)),
        np.asarray(np.memmap(beside, np.int64, "r", shape=(len(table), 2))),
    )
