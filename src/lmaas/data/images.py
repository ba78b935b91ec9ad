"""Folders of images, one folder a class or with boxes, or a zip of such folders: names now, files
when asked for.

Nothing is unpacked: a zip's members are read by name, so no name in it can reach a path.
"""

import hashlib
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa

from lmaas.data import annotations
from lmaas.data.annotations.marked import Files
from lmaas.data.table import Table, digest_of
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
MAX_FILES: Final = 5_000_000
MAX_FILE_BYTES: Final = 256 << 20
MAX_ZIP_RATIO: Final = 100
"""So many times its own size may all that is in a zip have: images are compressed already, and even
bitmaps of drawings stay below that."""
SMALL_ZIP_BYTES: Final = 256 << 20
"""What is in a zip may have so many bytes whatever the zip's own size is."""
METHODS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
LAYOUT: Final = (
    "Lay it out as CLASS/IMAGE: cat/1.png, dog/2.jpg; or with boxes: as COCO JSON, YOLO labels, "
    "Pascal VOC or JSONL has them."
)


def read_folder(folder: Path) -> Table:
    """The images of `folder` with their boxes, or in the folders of their classes.

    Links are not followed out of it.
    """
    root = folder.resolve()
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _hidden(path.relative_to(folder).as_posix()):
            if not path.resolve().is_relative_to(root):
                raise InvalidInput(
                    f"{folder.name}: {path.relative_to(folder)} is a link out of the folder.",
                    param="data",
                )
            names.append(path.relative_to(folder).as_posix())

    def read(name: str) -> bytes:
        path = folder / name
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _too_large(name)
        return path.read_bytes()

    images, others = _sorted_out(names, folder.name)
    files = Files(folder.name, images, others, read)

    def digest(names: Iterable[str]) -> str:
        whole = hashlib.sha256()
        for name in names:
            whole.update(f"{digest_of(folder / name)}  {name}\n".encode())
        return whole.hexdigest()

    marked = annotations.table_of(files, "")
    if marked is not None:
        marked.digest = digest(sorted(names))
        return marked
    return Table(
        _table(images, folder.name, ""),
        name=folder.name,
        digest=digest(images),
        unit="image",
        notes=_notes(others),
        open_bytes=read,
    )


def read_zip(path: Path) -> Table:
    """The images of the zip at `path`, as `read_folder` reads them; one folder around the folders
    of all classes is left out.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidInput(
            f"{path.name} is no zip that can be read: {error}.", param="data"
        ) from None
    names = []
    _check_sizes(archive.infolist(), path)
    for member in archive.infolist():
        _check_member(member, path.name)
        if not member.is_dir() and not _hidden(member.filename):
            names.append(member.filename)
    if len(set(names)) != len(names):
        raise InvalidInput(f"{path.name} names a file twice.", param="data")
    images, others = _sorted_out(names, path.name)

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise InvalidInput(f"{path.name}: {name} is damaged: {error}.", param="data") from None

    digest = digest_of(path)
    marked = annotations.table_of(Files(path.name, images, others, read), digest)
    if marked is not None:
        return marked
    firsts = {PurePosixPath(name).parts[0] for name in images}
    deep = all(len(PurePosixPath(name).parts) > 2 for name in images)
    around = f"{firsts.pop()}/" if len(firsts) == 1 and deep else ""
    return Table(
        _table(sorted(name.removeprefix(around) for name in images), path.name, around),
        name=path.name,
        digest=digest,
        unit="image",
        notes=_notes(others),
        open_bytes=lambda name: read(around + name),
    )


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse a zip that says less than it holds, or more than there can be in it.

    What a member says is its size is the most that is ever unpacked of it.
    """
    if len(members) > MAX_FILES:
        raise InvalidInput(f"{path.name} has more than {MAX_FILES} files.", param="data")
    own = path.stat().st_size
    if sum(member.compress_size for member in members) > own:
        raise InvalidInput(
            f"{path.name} is no zip that can be read: files in it overlap.", param="data"
        )
    whole = sum(member.file_size for member in members)
    if whole > max(SMALL_ZIP_BYTES, MAX_ZIP_RATIO * own):
        raise InvalidInput(
            f"{path.name} has {own} bytes and would unpack to {whole}, more than "
            f"{MAX_ZIP_RATIO} times as many.",
            hint="Save the images compressed (PNG, JPEG), or give the folder itself.",
            param="data",
        )


def _check_member(member: zipfile.ZipInfo, file: str) -> None:
    name = member.filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise InvalidInput(f"{file} names a file outside itself: {name[:200]!r}.", param="data")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InvalidInput(f"{file}: {name} is a link.", param="data")
    if member.flag_bits & 1:
        raise InvalidInput(f"{file}: {name} is encrypted.", param="data")
    if member.compress_type not in METHODS:
        raise InvalidInput(
            f"{file}: {name} is compressed by method {member.compress_type}; read are "
            f"{', '.join(METHODS.values())}.",
            param="data",
        )
    if member.file_size > MAX_FILE_BYTES:
        raise _too_large(name)


def _sorted_out(names: list[str], file: str) -> tuple[list[str], list[str]]:
    """The images, and the other files, which say nothing: Thumbs.db, a text about the data.

    Raises InvalidInput for an image of a format that is not read, and where no image is left.
    """
    if len(names) > MAX_FILES:
        raise InvalidInput(f"{file} has more than {MAX_FILES} files.", param="data")
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


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _too_large(name: str) -> InvalidInput:
    return InvalidInput(f"{name} has more than {MAX_FILE_BYTES >> 20} MiB.", param="data")
