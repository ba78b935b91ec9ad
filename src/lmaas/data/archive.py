"""Folders and zips of files: names now, files when asked for.

Nothing is unpacked: a zip's members are read by name, so no name in it can reach a path. Knows
nothing of what the files are.
"""

import hashlib
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from lmaas.data.table import digest_of
from lmaas.errors import InvalidInput

MAX_FILES: Final = 5_000_000
MAX_FILE_BYTES: Final = 256 << 20
MAX_ZIP_RATIO: Final = 100
"""So many times its own size may all that is in a zip have: images and sound are compressed
already, and even bitmaps of drawings stay below that."""
SMALL_ZIP_BYTES: Final = 256 << 20
"""What is in a zip may have so many bytes whatever the zip's own size is."""
METHODS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}


class Files(NamedTuple):
    """The files of a folder or a zip called `name`; hidden ones are none of them.

    `read` gives a file's bytes, `digest` a sha256 in hex that changes with what is in those named.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    digest: Callable[[Sequence[str]], str]


def of_folder(folder: Path) -> Files:
    """The files in `folder` and below. Links are not followed out of it."""
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
    _check_count(names, folder.name)

    def read(name: str) -> bytes:
        path = folder / name
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _too_large(name)
        return path.read_bytes()

    def digest(names: Sequence[str]) -> str:
        told = hashlib.sha256()
        for name in names:
            told.update(f"{digest_of(folder / name)}  {name}\n".encode())
        return told.hexdigest()

    return Files(folder.name, tuple(names), read, digest)


def of_zip(path: Path) -> Files:
    """The files in the zip at `path`. Raises InvalidInput for one that is made to do harm."""
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

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise InvalidInput(f"{path.name}: {name} is damaged: {error}.", param="data") from None

    return Files(path.name, tuple(names), read, lambda names: digest_of(path))


def _check_count(names: Sequence[object], file: str) -> None:
    if len(names) > MAX_FILES:
        raise InvalidInput(f"{file} has more than {MAX_FILES} files.", param="data")


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse a zip that says less than it holds, or more than there can be in it.

    What a member says is its size is the most that is ever unpacked of it.
    """
    _check_count(members, path.name)
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
            hint="Save the files compressed (PNG, JPEG; FLAC), or give the folder itself.",
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


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _too_large(name: str) -> InvalidInput:
    return InvalidInput(f"{name} has more than {MAX_FILE_BYTES >> 20} MiB.", param="data")
