"""Where admitted requests are noted before the database has them: a file that only grows.

Each note is one plain write, which the kernel keeps when the process is killed. A request has a
note when it is admitted and one, its whole row, when it has ended. Knows no limits and no money.

A spool is a file of JSON lines. Rotation starts a new one with the notes of the requests that
still run; the ones before may be removed once their rows are in the database.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from lmaas.errors import FULL, StorageFull

FOLDER = "usage"
SUFFIX = ".spool"


class UsageEntry(NamedTuple):
    """One row of the table `usage`, column by column."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    version: int | None
    endpoint: str
    requests: int
    started_at: float
    duration_ms: float
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    cost_micro: int
    status: Literal["ok", "failed", "cancelled"]
    error_code: str | None
    audio_ms: int = 0


class Begun(NamedTuple):
    """A request that was admitted; `model` is `name` or `name:version`."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    endpoint: str
    started_at: float


_encoder = msgspec.json.Encoder()


def line_of(note: UsageEntry | Begun) -> bytes:
    """A note as a spool has it."""
    return _encoder.encode(note) + b"\n"


def read_spools(paths: Iterable[Path]) -> tuple[dict[str, Begun], dict[str, UsageEntry]]:
    """Requests that never ended and rows of those that did, by request id.

    A note that is cut was being written when the process was killed: nobody saw it done.
    """
    begun: dict[str, Begun] = {}
    rows: dict[str, UsageEntry] = {}
    for path in paths:
        for line in path.read_bytes().splitlines():
            note = _read(line)
            if isinstance(note, UsageEntry):
                rows[note.request_id] = note
            elif note is not None:
                begun[note.request_id] = note
    return {id: note for id, note in begun.items() if id not in rows}, rows


def _read(line: bytes) -> UsageEntry | Begun | None:
    try:
        fields: list[Any] = msgspec.json.decode(line, type=list[Any])
        if len(fields) > len(Begun._fields):  # earlier releases' rows have fewer
            return msgspec.convert(fields, UsageEntry)
        return msgspec.convert(fields, Begun)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class UsageJournal:
    """The spools of one home, held by one process. The caller serialises its calls."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        self._lock: int | None = None
        self._file: int | None = None
        self._path: Path | None = None
        self._number = 0

    @property
    def held(self) -> bool:
        """Whether this process may write here."""
        return self._lock is not None

    def hold(self) -> bool:
        """Take the folder, unless another process has it. The kernel frees it when we die."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def spools(self) -> list[Path]:
        """All spools but the one that is written to, oldest first."""
        return sorted(path for path in self.folder.glob(f"*{SUFFIX}") if path != self._path)

    def append(self, line: bytes) -> None:
        """Write one note. Raises StorageFull, and then nothing is written."""
        if self._file is None:
            self._start()
            assert self._file is not None
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise _full("the device is full")
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise _full(str(error.strerror)) from error

    def rotate(self, running: Iterable[bytes]) -> None:
        """Start a new spool with the notes of the requests that still run."""
        before, path = self._file, self._path
        self._file = None
        try:
            lines = b"".join(running)
            if lines:
                self.append(lines)
        except StorageFull:
            self._abandon()
            self._file, self._path = before, path
            raise
        if self._file is None:
            self._path = None
        if before is not None:
            os.close(before)

    def release(self) -> None:
        """Let another process have the folder; what is in it stays."""
        for number in (self._file, self._lock):
            if number is not None:
                os.close(number)
        self._file = self._lock = self._path = None

    def _start(self) -> None:
        spools = [int(path.stem) for path in self.folder.glob(f"*{SUFFIX}")]
        self._number = max([self._number, *spools]) + 1
        path = self.folder / f"{self._number:012d}{SUFFIX}"
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise _full(str(error.strerror)) from error
        self._path = path

    def _abandon(self) -> None:
        if self._file is not None and self._path is not None:
            os.close(self._file)
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


def _full(why: str) -> StorageFull:
    return StorageFull(
        f"Usage cannot be noted: {why}.", hint="Free space on the device of LMAAS_HOME."
    )
