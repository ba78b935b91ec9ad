"""Files between us and confined processes: what they are given, and what they have left.

What they leave may be a link, a pipe, or without end.

A process that is shut in can still lay a link to anywhere in its own folder and hope that we, who
may read everything, follow it. Nothing here follows links, waits, or reads more than it is told.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from lmaas.errors import ModelRefused

MOST_DEPTH: Final = 64


def opened(path: Path) -> BinaryIO:
    """`path`, a plain file, for reading. Raises ModelRefused for what is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _refused(path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path)
    return os.fdopen(descriptor, "rb")


def read(path: Path, most_bytes: int, *, start: int = 0) -> bytes:
    """At most `most_bytes` of a plain file from byte `start`. Raises ModelRefused, OSError."""
    with opened(path) as file:
        file.seek(start)
        return file.read(most_bytes)


def tail(path: Path, most_bytes: int) -> bytes:
    """The last `most_bytes` of a plain file. Raises ModelRefused, OSError."""
    with opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        return file.read(most_bytes)


def write(path: Path, content: bytes) -> None:
    """Put a new file at `path`, whatever lies there. Raises OSError."""
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(written, flags, 0o644), "wb") as file:
        file.write(content)
    written.replace(path)


def appended(path: Path) -> BinaryIO:
    """`path`, a plain file, for appending; made where there is none. Raises ModelRefused."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError:
        raise _refused(path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path)
    return os.fdopen(descriptor, "ab")


def needed_for(path: Path) -> list[Path]:
    """`path` and what links in it lead to: all that must be given to read it.

    For what lies on the machine because its owner put it there: links may lead anywhere.
    """
    path = path.absolute()
    needed = [path]
    for link in (path, *_below(path)):
        if link.is_symlink():
            # By name too, as it may lead over others.
            ahead = os.path.normpath(link.parent / link.readlink())
            needed += [Path(ahead), link.resolve()]
    return needed


def check_plain(folder: Path) -> None:
    """Raise ModelRefused unless all below `folder`, and itself, are folders and plain files."""
    for path in (folder, *_below(folder)):
        mode = path.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise _refused(path)


def size(folder: Path) -> int:
    """Bytes that `folder` takes on its disk, folders included. Raises ModelRefused for a tree
    that is deeper than `MOST_DEPTH`.
    """
    total = 0
    for path in _below(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def remove(folder: Path) -> None:
    """Delete `folder` and all in it, however deep; what cannot be deleted stays."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        while folder.is_dir() and not folder.is_symlink() and _raise_inner(folder):
            pass
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)


def _raise_inner(folder: Path) -> bool:
    """Have the folders that lie two below come up by one; whether there are any."""
    found = False
    for outer in _folders(folder):
        os.chmod(outer, 0o700)
        for inner in _folders(outer):
            os.rename(inner, folder / secrets.token_hex(8))
            found = True
        for entry in os.scandir(outer):
            os.unlink(entry.path)
        os.rmdir(outer)
    return found


def _folders(folder: str | Path) -> list[str]:
    return [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


def check_inside(base: Path, path: Path) -> None:
    """Raise ModelRefused where a folder between `base` and `path`, or that itself, is a link."""
    for each in (path, *path.parents):
        if each == base:
            return
        if each.is_symlink():
            raise _refused(each)


def _below(folder: Path) -> Iterator[Path]:
    """All below `folder`. Raises ModelRefused where it is too deep."""
    waiting = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise ModelRefused(f"{folder.name} has folders that lie more than {MOST_DEPTH} deep.")
        try:
            entries = list(os.scandir(here))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise ModelRefused(f"{folder.name} has folders that are too deep.") from None
        for entry in entries:
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), depth + 1))


def _refused(path: Path) -> ModelRefused:
    return ModelRefused(
        f"{path.name} is no plain file.",
        hint="Links, pipes and devices are not followed: give the files themselves.",
    )
