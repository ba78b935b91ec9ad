"""JSONL of boxes: a line for each image, `{"image": "1.png", "boxes": [{"label", "box"}]}`.

A box is `[xmin, ymin, xmax, ymax]`, or an object of these four as a detector answers it.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from lmaas.data.annotations.marked import Box, Files, Marked, Names, number
from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE

ENDS: Final = (".jsonl", ".ndjson")
SIDES: Final = ("xmin", "ymin", "xmax", "ymax")
HINT: Final = '{"image": "1.png", "boxes": [{"label": "cat", "box": [4, 2, 30, 20]}]}'


class Object(msgspec.Struct):
    """One box. Other fields, such as a score, are ignored: detectors write them."""

    label: str
    box: list[Any] | dict[str, Any]


class Line(msgspec.Struct):
    """One image."""

    image: str
    boxes: list[Object]
    width: float | None = None
    height: float | None = None


def _files(files: Files) -> list[str]:
    return sorted(name for name in files.others if name.lower().endswith(ENDS))


def find(files: Files) -> bool:
    """Whether there is such a file."""
    return bool(_files(files))


def read(files: Files) -> Iterator[Marked]:
    """The image of each line. Raises InvalidInput."""
    names = Names(files)
    for name in _files(files):
        for number_, line in enumerate(files.read(name).split(b"\n"), 1):
            if line.strip():
                yield _marked(line, name, f"{name}, line {number_}", names)


def _marked(line: bytes, name: str, place: str, names: Names) -> Marked:
    try:
        told = msgspec.json.decode(line, type=Line)
    except UNREADABLE as error:
        raise InvalidInput(f"{place}: {error}.", hint=HINT, param="data") from None
    boxes = [_box(each, place) for each in told.boxes]
    size = (told.width, told.height) if told.width and told.height else None
    return Marked(names.find(told.image, name, place), boxes, place, size=size)


def _box(told: Object, place: str) -> Box:
    given = told.box
    if isinstance(given, dict):
        missing = [side for side in SIDES if side not in given]
        if missing:
            raise InvalidInput(f"{place}: a box has no {missing[0]}.", hint=HINT, param="data")
        given = [given[side] for side in SIDES]
    if len(given) != len(SIDES):
        raise InvalidInput(
            f"{place}: a box has {len(given)} numbers; expected 4.", hint=HINT, param="data"
        )
    left, top, right, bottom = (number(value, place, "a box") for value in given)
    return Box(told.label, left, top, right, bottom, place)
