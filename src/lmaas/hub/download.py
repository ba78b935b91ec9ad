"""A model's files from a hub to a folder: continued after any end, checked on disk.

What is not complete yet lies beside its place with the suffix `.part`; the next run goes on there.
"""

import fcntl
import hashlib
import os
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
    Cancelled,
    Conflict,
    CorruptBlob,
    InvalidInput,
    StorageFull,
    Unavailable,
)
from lmaas.frameworks import checkpoint, refuse_checkpoint
from lmaas.hub.api import Hub, told
from lmaas.hub.repo import CARD, HubFile, HubRef, choose
from lmaas.types import PullProgress, Record

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


class Pulled(Record, frozen=True, kw_only=True):
    """A downloaded and checked checkpoint. `source` names it as lineages do; `card` is its text."""

    folder: str
    source: str
    task: str
    card: str


@contextmanager
def locked(hub_folder: Path, ref: HubRef) -> Iterator[None]:
    """The right to pull one repository into this home. Raises Conflict.

    The kernel releases it when its holder dies, however it dies.
    """
    hub_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (hub_folder / f"{ref.folder}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Conflict(
                f"{ref.repo} is being pulled into this home already, by process "
                f"{file.read(20) or '?'}.",
                hint="Wait until it is done.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def download(
    ref: HubRef,
    hub_folder: Path,
    *,
    task: str | None,
    heard: Heard,
    stop: threading.Event,
) -> Pulled:
    """Download one commit of a repository. Hold `locked` meanwhile.

    `heard` is told how far it is, in this thread; `stop` ends it with Cancelled. Raises
    ModelRefused, CorruptBlob, StorageFull and what `api.Hub` raises.
    """
    with Hub() as hub:
        commit, files = hub.commit(ref)
        chosen = choose(ref, files)
        folder = hub_folder / ref.folder / commit
        run = _Download(hub, ref, commit, folder, chosen, heard, stop)
        run.require_space()
        for file in chosen:
            if not file.is_weights:
                run.fetch(file)
        # What cannot be served is told before its weights are downloaded.
        refuse_checkpoint.check_configs(folder)
        task = task_of(folder) if task is None else task
        for file in chosen:
            if file.is_weights:
                run.fetch(file)
    card = folder / CARD
    return Pulled(
        folder=str(folder),
        source=f"hf:{ref.repo}@{commit}",
        task=task,
        card=card.read_text("utf-8", errors="replace") if card.is_file() else "",
    )


def check_task(task: str | None) -> None:
    """Whether a checkpoint can have this task. Raises InvalidInput."""
    if task is not None and task not in checkpoint.CHECKPOINT_TASKS:
        raise InvalidInput(
            f"A checkpoint cannot be {task!a}; its tasks are "
            f"{', '.join(checkpoint.CHECKPOINT_TASKS)}.",
            param="task",
        )


def task_of(folder: Path) -> str:
    """The task that a checkpoint's configs tell of. Raises InvalidInput, ModelRefused."""
    task = checkpoint.task_of(checkpoint.read_config(folder))
    is_encoder = task != "text-ranking" and (folder / "modules.json").is_file()
    return "embedding" if is_encoder else task


class _Download:
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
        with self._place("."):
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
            raise CorruptBlob(
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
