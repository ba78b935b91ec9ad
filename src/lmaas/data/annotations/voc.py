"""Pascal VOC: an XML file for each image, with objects and their boxes in pixels.

VOC counts pixels from 1: a box from 1 to 10 covers the first ten. No document type is read, so
entities cannot make little text much.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final
from xml.parsers import expat

from lmaas.data.annotations.marked import Box, Files, Marked, Names, number
from lmaas.errors import InvalidInput

ROOT: Final = b"<annotation"
HEAD_BYTES: Final = 4096
MAX_DEPTH: Final = 32
SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


def _files(files: Files) -> list[str]:
    return sorted(name for name in files.others if name.lower().endswith(".xml"))


def find(files: Files) -> bool:
    """Whether the first XML file is an annotation."""
    return any(ROOT in files.read(name)[:HEAD_BYTES] for name in _files(files)[:1])


def read(files: Files) -> Iterator[Marked]:
    """The image of each file. Raises InvalidInput."""
    names = Names(files)
    for name in _files(files):
        reader = _Reader(name)
        reader.read(files.read(name))
        told = reader.texts
        place = f"{name}, line 1"
        given = told.get("filename") or PurePosixPath(name).stem
        try:
            image = names.find(given, name, place)
        except InvalidInput:
            if (found := _by_stem(files, name)) is None:
                raise
            image = found
        size = None
        if told.get("size.width") and told.get("size.height"):
            size = (
                number(told["size.width"], place, "size"),
                number(told["size.height"], place, "size"),
            )
            if min(size) <= 0:
                size = None
        yield Marked(image, reader.boxes, place, size=size)


def _by_stem(files: Files, name: str) -> str | None:
    stem = PurePosixPath(name).stem
    found = [image for image in files.images if PurePosixPath(image).stem == stem]
    return found[0] if len(found) == 1 else None


class _Reader:
    """The texts and objects of one file, with their lines."""

    def __init__(self, name: str) -> None:
        self.texts: dict[str, str] = {}
        self.boxes: list[Box] = []
        self._name = name
        self._path: list[str] = []
        self._object: dict[str, str] = {}
        self._line = 0
        self._text: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._refuse

    def read(self, content: bytes) -> None:
        """Parse it all. Raises InvalidInput."""
        try:
            self._parser.Parse(content, True)
        except expat.ExpatError as error:
            raise InvalidInput(f"{self._name} is no XML: {error}.", param="data") from None
        finally:
            # The parser and its handlers hold each other.
            self._parser.StartElementHandler = self._parser.EndElementHandler = None
            self._parser.CharacterDataHandler = self._parser.StartDoctypeDeclHandler = None

    def _refuse(self, *_: Any) -> None:
        raise InvalidInput(
            f"{self._name}, line {self._parser.CurrentLineNumber}: a document type is not read.",
            hint="Remove <!DOCTYPE …>.",
            param="data",
        )

    def _start(self, tag: str, _: Any) -> None:
        self._path.append(tag)
        self._text.clear()
        if len(self._path) > MAX_DEPTH:
            raise InvalidInput(f"{self._name} is nested too deeply.", param="data")
        if self._path[1:] == ["object"]:
            self._object, self._line = {}, self._parser.CurrentLineNumber

    def _end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        inner = self._path[1:]
        if inner == ["object"]:
            self._add()
        elif inner[:1] == ["object"]:
            self._object[".".join(inner[1:])] = text
        elif text:
            self.texts[".".join(inner)] = text
        self._text.clear()
        self._path.pop()

    def _add(self) -> None:
        place = f"{self._name}, line {self._line}"
        missing = [side for side in SIDES if f"bndbox.{side}" not in self._object]
        if missing:
            raise InvalidInput(f"{place}: the object has no {missing[0]}.", param="data")
        left, top, right, bottom = (
            number(self._object[f"bndbox.{side}"], place, side) for side in SIDES
        )
        label = self._object.get("name", "")
        self.boxes.append(Box(label, left - 1, top - 1, right, bottom, place))
