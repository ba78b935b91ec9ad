"""One annotated image, whatever format it came in, and the checks that all formats share."""

import math
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

import msgspec

from lmaas.errors import InvalidInput

MOST_BOXES: Final = 1000
"""So many boxes an image may have: one with more is a mistake, and costs as much as a thousand."""
LONGEST_LABEL: Final = 200
SLACK: Final = 1.0
"""So many pixels a box may reach over the edge, as annotators and rounding have it; it is cut."""
SLACK_SHARE: Final = 0.01


class Files(NamedTuple):
    """The files of a folder or a zip called `file`: images, and all others, by their paths."""

    file: str
    images: Sequence[str]
    others: Sequence[str]
    read: Callable[[str], bytes]


class Box(msgspec.Struct, array_like=True):
    """A box by its corners, `place` (file and line), and whether it stands for a crowd."""

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    place: str = ""
    crowd: bool = False

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax."""
        return self.xmin, self.ymin, self.xmax, self.ymax


class Boxes(msgspec.Struct, array_like=True):
    """All boxes of an image; `shares`: corners are shares of its sides, else pixels."""

    shares: bool
    boxes: list[Box]


class Marked(NamedTuple):
    """An image with its boxes. `size` is its width and height, where the annotation says them."""

    image: str
    boxes: list[Box]
    place: str
    shares: bool = False
    size: tuple[float, float] | None = None

    def checked(self) -> Boxes:
        """The boxes, each a real one. Raises InvalidInput naming file and line."""
        if len(self.boxes) > MOST_BOXES:
            raise InvalidInput(
                f"{self.place}: {self.image!r} has {len(self.boxes)} boxes; an image may have "
                f"{MOST_BOXES}.",
                param="data",
            )
        size = (1.0, 1.0) if self.shares else self.size
        kept = [check(box, size, SLACK_SHARE if self.shares else SLACK) for box in self.boxes]
        return Boxes(self.shares, kept)


def check(box: Box, size: tuple[float, float] | None, slack: float) -> Box:
    """The box, cut off at the edges of an image of `size`.

    Raises InvalidInput for numbers that are none, no area, and a box that lies outside.
    """
    label = box.label.strip()
    if not label or len(label) > LONGEST_LABEL:
        told = "no name" if not label else f"a name of {len(label)} letters"
        raise InvalidInput(f"{box.place}: the box's class has {told}.", param="data")
    if not all(map(math.isfinite, box.corners)):
        raise InvalidInput(f"{box.place}: the box's numbers are not finite.", param="data")
    if box.xmax <= box.xmin or box.ymax <= box.ymin:
        raise InvalidInput(
            f"{box.place}: the box has no area: it reaches from x {box.xmin:g} to {box.xmax:g} and "
            f"from y {box.ymin:g} to {box.ymax:g}.",
            param="data",
        )
    if size is None:
        return box
    width, height = size
    most = (width + slack, height + slack)
    if min(box.xmin, box.ymin) < -slack or box.xmax > most[0] or box.ymax > most[1]:
        raise InvalidInput(
            f"{box.place}: the box lies outside the image: x {box.xmin:g} to {box.xmax:g}, y "
            f"{box.ymin:g} to {box.ymax:g}, in an image of {width:g} x {height:g}.",
            param="data",
        )
    cut = Box(
        box.label.strip(), max(0.0, box.xmin), max(0.0, box.ymin), min(width, box.xmax),
        min(height, box.ymax), box.place, box.crowd,
    )  # fmt: skip
    if cut.xmax <= cut.xmin or cut.ymax <= cut.ymin:
        raise InvalidInput(f"{box.place}: the box lies outside the image.", param="data")
    return cut


class Names:
    """Finds the image that an annotation names: by its path, from the annotation's folder or the
    top, or by its file's name where only one has it.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._paths = set(files.images)
        self._by_name: dict[str, list[str]] = {}
        for path in files.images:
            self._by_name.setdefault(PurePosixPath(path).name, []).append(path)

    def find(self, told: Any, beside: str, place: str) -> str:
        """The path of the image called `told`. Raises InvalidInput."""
        if not isinstance(told, str) or not told:
            raise InvalidInput(f"{place}: the image has no file's name.", param="data")
        name = told.replace("\\", "/")
        near = (PurePosixPath(beside).parent / name).as_posix()
        for path in (near, name.removeprefix("./")):
            if path in self._paths:
                return path
        found = self._by_name.get(PurePosixPath(name).name, [])
        if len(found) == 1:
            return found[0]
        why = "is not there" if not found else f"could be {found[0]} or {found[1]}"
        raise InvalidInput(f"{place}: the image {told[:200]!r} {why}.", param="data")


def text_of(content: bytes, name: str) -> str:
    """A file of text. Raises InvalidInput."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is no UTF-8 text.", param="data") from None


def number(value: Any, place: str, what: str) -> float:
    """A finite number. Raises InvalidInput."""
    try:
        told = float(value)
    except (TypeError, ValueError, OverflowError):
        told = math.nan
    if isinstance(value, bool) or not math.isfinite(told):
        raise InvalidInput(
            f"{place}: {what} must be a number; received {str(value)[:60]!r}.", param="data"
        )
    return told
