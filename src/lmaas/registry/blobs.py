"""Files by the sha256 of their content, under `blobs/sha256/`.

Written tmp → fsync → rename → fsync(directory), so that a name never stands for half a file.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmaas.errors import FULL, CorruptBlob, StorageFull

DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20


class Blobs:
    """The content-addressed files of one home."""

    def __init__(self, home: Path) -> None:
        self._root = home / "blobs" / "sha256"
        self._tmp = home / "blobs" / "tmp"
        self._lock = home / "blobs" / "lock"
        for folder in (self._root, self._tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob of this digest is or would be."""
        assert DIGEST.fullmatch(sha256)
        return self._root / sha256[:2] / sha256

    def put(self, source: Path) -> tuple[str, int]:
        """Store a copy of `source`; its digest and size in bytes.

        A blob that is there already is kept if it is whole and replaced if it is damaged.
        Raises StorageFull.
        """
        temporary = self._tmp / secrets.token_hex(16)
        try:
            sha256, size = _copy(source, temporary)
            target = self.path(sha256)
            if not (target.exists() and digest_of(target) == sha256):
                if not target.parent.exists():
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    _sync_folder(self._root)
                temporary.chmod(0o400)
                temporary.replace(target)
                _sync_folder(target.parent)
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull(
                    f"No space left while storing {source.name}.",
                    hint="Free space on the device of LMAAS_HOME and publish again.",
                ) from error
            raise
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return sha256, size

    def link(self, sha256: str, target: Path) -> None:
        """Make `target` the blob's content, checked now against its digest.

        A hard link where the device allows it. Raises CorruptBlob.
        """
        source = self.path(sha256)
        found = digest_of(source) if source.exists() else "nothing"
        if found != sha256:
            raise CorruptBlob(
                f"The stored file sha256:{sha256} is damaged: it has the digest {found}.",
                hint="Publish the version again, or restore the file; `lmaas fsck` lists all.",
            )
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            _copy(source, target)

    def all(self) -> Iterator[str]:
        """The digest of every blob that is there."""
        for folder in sorted(self._root.iterdir()):
            yield from sorted(p.name for p in folder.iterdir() if DIGEST.fullmatch(p.name))

    def slices(self) -> Iterator[set[str]]:
        """The same, some at a time."""
        for folder in sorted(self._root.iterdir()):
            yield {p.name for p in folder.iterdir() if DIGEST.fullmatch(p.name)}

    def remove(self, sha256: str) -> None:
        """Delete a blob."""
        self.path(sha256).unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """Temporary files that a crash left; meaningful while holding `alone`."""
        return sorted(self._tmp.iterdir())

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Hold while blobs are put that no row names yet: nothing is collected meanwhile."""
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody is adding; while held, nobody begins to."""
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(path: str, flags: int) -> int:
    """What others have written may be a link: it is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW)


def _copy(source: Path, target: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(source, "rb", opener=_plain) as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
