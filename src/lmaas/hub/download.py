"""A model's files from a hub to a folder: continued after any end, checked on disk.

What is not complete yet lies beside its place with the suffix `.part`; the next run goes on there.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import httpx

from lmaas.errors import (
    FULL,
    BadGateway,
    Cancelled,
    StorageFull,
    Unavailable,
)
from lmaas.hub.api import Hub, told
from lmaas.hub.repo import HubFile, HubRef
from lmaas.types import PullProgress

PART = ".part"
TRIES = 6
"""So often in a row a file may break off, each time with less than `STEP_BYTES` gained."""
STEP_BYTES = 8 << 20
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
READ_BYTES = 1 << 20
REPORT_S = 0.5
CONTINUES = "Run it again: it continues where it stopped."

Heard = Callable[[PullProgress], None]


class Download:
    """One run over the chosen files of a commit."""

    def __init__(
        self,
        hub: Hub,
        ref: HubRef,
        commit: str,
        folder: Path,
        chosen: list[HubFile],
        heard: Heard,
        stop: threading.Event,
    ) -> None:
        self._hub, self._ref, self._commit, self._folder = hub, ref, commit, folder
        self._heard, self._stop = heard, stop
        self._total = sum(file.size_bytes for file in chosen)
        self._there = {file.name: self._on_disk(file) for file in chosen}
        self._reported_at = 0.0

    def _on_disk(self, file: HubFile) -> int:
        for path in (self._folder / file.name, self._part(file)):
            if path.is_file():
                return min(path.stat().st_size, file.size_bytes)
        return 0

    def _part(self, file: HubFile) -> Path:
        return self._folder / (file.name + PART)

    def require_space(self) -> None:
        """Whether the rest fits onto the device. Raises StorageFull with the numbers."""
        with self._place("a folder"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing = self._total - sum(self._there.values())
        free = shutil.disk_usage(self._folder).free
        if missing > free:
            raise StorageFull(
                f"{self._ref.repo} needs {missing:,} more bytes (of {self._total:,}); the device "
                f"of LMAAS_HOME has {free:,} free.",
                hint="Free space, or set LMAAS_HOME to a larger device.",
            )

    def fetch(self, file: HubFile) -> None:
        """Have one file on disk, whole and checked."""
        path, part = self._folder / file.name, self._part(file)
        with self._place(file.name):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_file():
                path.replace(part)
            if part.is_file() and part.stat().st_size > file.size_bytes:
                part.unlink()
            self._complete(file, part)
            self._verify(file, part)
            part.replace(path)
        self._report(file, file.size_bytes, at_once=True)

    def _complete(self, file: HubFile, part: Path) -> None:
        tries, begun_at, pause_s = 0, 0, FIRST_PAUSE_S
        with part.open("ab", buffering=0) as out:
            while out.tell() < file.size_bytes:
                self._check_stop()
                try:
                    self._append(file, out)
                except (httpx.RequestError, Unavailable) as error:
                    if out.tell() - begun_at >= STEP_BYTES:
                        tries, begun_at, pause_s = 0, out.tell(), FIRST_PAUSE_S
                    tries += 1
                    if tries == TRIES:
                        raise Unavailable(
                            f"{file.name} broke off after {out.tell():,} of {file.size_bytes:,} "
                            f"bytes, {TRIES} times: {told(error)}.",
                            hint=CONTINUES,
                        ) from None
                    self._stop.wait(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _append(self, file: HubFile, out: FileIO) -> None:
        start = out.tell()
        with self._hub.content(self._ref, self._commit, file, start) as response:
            if "content-encoding" in response.headers:
                raise Unavailable(f"the hub sends it as {response.headers['content-encoding']}")
            if response.status_code == 206:
                span = response.headers.get("content-range", "")
                if not span.startswith(f"bytes {start}-"):
                    raise Unavailable(f"asked from byte {start} on, the hub sends {span!a}")
            else:
                out.truncate(0)
                out.seek(0)
            for piece in response.iter_raw():
                self._check_stop()
                room = file.size_bytes - out.tell()
                _write(out, memoryview(piece)[:room])
                self._report(file, out.tell())
                if len(piece) >= room:
                    return
        if out.tell() < file.size_bytes:
            raise Unavailable("the hub sent less than the file's size")

    def _verify(self, file: HubFile, part: Path) -> None:
        if file.sha256 is not None:
            kind, expected, digest = "sha256", file.sha256, hashlib.sha256()
        else:
            # Git's own name of a file's content; only sha1 is told of small files.
            kind, expected = "git sha1", file.blob_sha1
            digest = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
        with part.open("rb") as content:
            while piece := content.read(READ_BYTES):
                self._check_stop()
                digest.update(piece)
        if digest.hexdigest() != expected:
            part.unlink()
            raise BadGateway(
                f"{file.name} of {self._ref.repo} has the {kind} {digest.hexdigest()}; the hub "
                f"says {expected}. The file was deleted.",
                hint="Run it again: this file is downloaded anew, the others stay.",
            )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Cancelled(f"The pull of {self._ref.repo} was stopped.", hint=CONTINUES)

    def _report(self, file: HubFile, there: int, *, at_once: bool = False) -> None:
        self._there[file.name] = there
        now = time.monotonic()
        if at_once or now - self._reported_at >= REPORT_S:
            self._reported_at = now
            self._heard(
                PullProgress(
                    file=file.name,
                    done_bytes=sum(self._there.values()),
                    total_bytes=self._total,
                )
            )

    @contextmanager
    def _place(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StorageFull(
                f"No space left for {name} of {self._ref.repo}: {error.strerror}.",
                hint=f"Free space on the device of LMAAS_HOME. {CONTINUES}",
            ) from error


def _write(out: FileIO, piece: memoryview) -> None:
    while piece:
        piece = piece[out.write(piece) :]
