"""Files between us and confined processes: what they are given, and what they have left.

What they leave may be a link, a pipe, or without end.

A process that is shut in can still lay a link to anywhere in its own folder and hope that we, who
may read everything, follow it. Nothing here follows links, waits, or reads more than it is told.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lmaas.errors import ModelRefused


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
    return [path, *(link.resolve() for link in (path, *_below(path)) if link.is_symlink())]


def check_plain(folder: Path) -> None:
    """Raise ModelRefused unless all below `folder`, and itself, are folders and plain files."""
    for path in (folder, *_below(folder)):
        mode = path.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise _refused(path)


def size(folder: Path) -> int:
    """Bytes that `folder` takes on its disk."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _below(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        yield from (Path(base, name) for name in (*folders, *files))


def _refused(path: Path) -> ModelRefused:
    return ModelRefused(
        f"{path.name} is no plain file.",
        hint="Links, pipes and devices are not followed: give the files themselves.",
    )
