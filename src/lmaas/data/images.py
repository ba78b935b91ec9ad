"""Folders of images, one folder a class, with boxes or texts, or a zip of such folders."""

from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa

from lmaas.data import annotations, captions
from lmaas.data.annotations import marked
from lmaas.data.archive import Files, of_folder, of_zip
from lmaas.data.table import Table
from lmaas.errors import InvalidInput

IMAGE, LABEL = "image", "label"
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREAD: Final = {
    ".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIF", ".jxl": "JPEG XL", ".jp2": "JPEG 2000",
    ".svg": "SVG", ".psd": "Photoshop", ".dng": "a raw photograph", ".cr2": "a raw photograph",
    ".nef": "a raw photograph", ".arw": "a raw photograph",
}  # fmt: skip
"""Images that are not read, by the ends of their names."""
NAMED: Final = 5
"""How many of the files that are no images are named."""
LAYOUT: Final = (
    "Lay it out as CLASS/IMAGE: cat/1.png, dog/2.jpg; or with boxes: as COCO JSON, YOLO labels, "
    "Pascal VOC or JSONL has them; or with texts: as JSONL or CSV has them."
)


def read_folder(folder: Path) -> Table:
    """The images of `folder` with their boxes, or in the folders of their classes."""
    return table(of_folder(folder), around=False)


def read_zip(path: Path) -> Table:
    """The images of the zip at `path`, as `read_folder` reads them."""
    return table(of_zip(path), around=True)


def table(files: Files, *, around: bool) -> Table:
    """The images and their texts, boxes or classes; with `around` one folder around the folders of
    all classes is left out.

    Raises InvalidInput for files that are laid out otherwise.
    """
    names, others = _sorted_out(list(files.names), files.name)
    sorted_out = marked.Files(files.name, names, others, files.read)
    for told_of in (captions.table_of, annotations.table_of):
        found = told_of(sorted_out, lambda: files.digest(sorted(files.names)))
        if found is not None:
            return found
    outer = ""
    if around:
        firsts = {PurePosixPath(name).parts[0] for name in names}
        deep = all(len(PurePosixPath(name).parts) > 2 for name in names)
        outer = f"{firsts.pop()}/" if len(firsts) == 1 and deep else ""
    return Table(
        _table(sorted(name.removeprefix(outer) for name in names), files.name, outer),
        name=files.name,
        digest=files.digest(names),
        unit="image",
        notes=_notes(others),
        open_bytes=lambda name: files.read(outer + name),
    )


def _sorted_out(names: list[str], file: str) -> tuple[list[str], list[str]]:
    """The images, and the other files, which say nothing: Thumbs.db, a text about the data.

    Raises InvalidInput for an image of a format that is not read, and where no image is left.
    """
    images: list[str] = []
    others: list[str] = []
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in UNREAD:
            raise InvalidInput(
                f"{file}: {name} is {UNREAD[suffix]}, which is not read.",
                hint="Save the images as PNG, JPEG or WebP.",
                param="data",
            )
        (images if suffix in SUFFIXES else others).append(name)
    if not images:
        told = f" It has other files: {', '.join(others[:NAMED])}." if others else ""
        raise InvalidInput(f"{file} holds no images.{told}", hint=LAYOUT, param="data")
    return images, others


def _notes(others: list[str]) -> list[str]:
    if not others:
        return []
    named = ", ".join(others[:NAMED]) + (" …" if len(others) > NAMED else "")
    return [f"Files passed over, since they are no images: {len(others)} ({named})."]


def _table(names: list[str], file: str, around: str) -> pa.Table:
    labels = []
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) != 2:
            raise InvalidInput(
                f"{file}: {around}{name} is not an image in the folder of a class.",
                hint=LAYOUT,
                param="data",
            )
        labels.append(parts[0])
    return pa.table({IMAGE: pa.array(names, pa.string()), LABEL: pa.array(labels, pa.string())})
