"""COCO's JSON: images, annotations with boxes as x, y, width, height in pixels, and categories."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from lmaas.data.annotations.marked import Box, Files, Marked, Names, number
from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE

KEYS: Final = (b'"images"', b'"annotations"', b'"categories"')
SIDES: Final = 4


class Category(msgspec.Struct):
    """A class."""

    id: int
    name: str


class Picture(msgspec.Struct):
    """An image. Its width and height may be missing."""

    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct):
    """A box of an image."""

    image_id: int | str
    category_id: int
    bbox: list[Any]
    iscrowd: int = 0


class Document(msgspec.Struct):
    """A file; what else it has is not read."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Category]


def _files(files: Files) -> list[str]:
    return sorted(name for name in files.others if name.lower().endswith(".json"))


def find(files: Files) -> bool:
    """Whether a JSON file has images, annotations and categories."""
    return any(_is_coco(files.read(name)) for name in _files(files))


def _is_coco(content: bytes) -> bool:
    return all(key in content for key in KEYS)


def read(files: Files) -> Iterator[Marked]:
    """The images of all such files. Raises InvalidInput."""
    names = Names(files)
    for name in _files(files):
        content = files.read(name)
        if _is_coco(content):
            yield from _of_file(name, content, names)


def _of_file(name: str, content: bytes, names: Names) -> Iterator[Marked]:
    try:
        document = msgspec.json.decode(content, type=Document)
    except UNREADABLE as error:
        raise InvalidInput(f"{name} is no COCO JSON: {error}.", param="data") from None
    labels = {category.id: category.name for category in document.categories}
    if len(labels) != len(document.categories) or len(set(labels.values())) != len(labels):
        raise InvalidInput(f"{name}: a category is there twice.", param="data")
    lines = _Lines(content)
    pictures: dict[int | str, Marked] = {}
    start = max(content.find(KEYS[0]), 0)
    for raw in document.images:
        start, place = lines.place(name, raw, start)
        picture = _decoded(raw, Picture, place)
        if picture.id in pictures:
            raise InvalidInput(
                f"{place}: the image's id {picture.id!r} is there twice.", param="data"
            )
        size = None
        if picture.width and picture.height:
            size = (picture.width, picture.height)
        path = names.find(picture.file_name, name, place)
        pictures[picture.id] = Marked(path, [], place, size=size)
    start = max(content.find(KEYS[1]), 0)
    for raw in document.annotations:
        start, place = lines.place(name, raw, start)
        told = _decoded(raw, Annotation, place)
        marked = pictures.get(told.image_id)
        if marked is None:
            raise InvalidInput(f"{place}: there is no image {told.image_id!r}.", param="data")
        if told.category_id not in labels:
            raise InvalidInput(
                f"{place}: unknown class: there is no category {told.category_id}.", param="data"
            )
        if len(told.bbox) != SIDES:
            raise InvalidInput(f"{place}: bbox has {len(told.bbox)} numbers, not 4.", param="data")
        x, y, width, height = (number(value, place, "bbox") for value in told.bbox)
        label = labels[told.category_id]
        marked.boxes.append(Box(label, x, y, x + width, y + height, place, bool(told.iscrowd)))
    yield from pictures.values()


def _decoded(raw: msgspec.Raw, kind: Any, place: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNREADABLE as error:
        raise InvalidInput(f"{place}: {error}.", param="data") from None


class _Lines:
    """On which line a value of a document stands: values are looked for in their order."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._line, self._at = 1, 0

    def place(self, name: str, raw: msgspec.Raw, start: int) -> tuple[int, str]:
        """Where the value ends, and its line in words."""
        begin = self._content.find(bytes(raw), start)
        if begin < self._at:
            self._line, self._at = 1, 0
        self._line += self._content.count(b"\n", self._at, begin)
        self._at = begin
        return begin + len(memoryview(raw)), f"{name}, line {self._line}"
