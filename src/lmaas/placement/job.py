"""A job's process on this machine: its group, its memory, its end. Knows no queue.

The process leads a group of its own, so that what it starts ends with it. It has a pipe as its
standard input whose other end only the server holds: when the server dies, however it dies, the
group ends itself (`lmaas.jobs.child`).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from lmaas.job import LOG_FILE
from lmaas.placement import left
from lmaas.placement.sandbox import environment
from lmaas.placement.survivors import Namespace, end_all, namespace_of
from lmaas.types import UNREADABLE

PROCESS_SUFFIX: Final = ".process"
"""Which process a job has, noted beside its folder: in it, the job could name another."""
END_S: Final = 5.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Mark(msgspec.Struct, frozen=True):
    """Which process a folder's job had: its id, and when it began, in the kernel's ticks."""

    pid: int
    started: int


class LocalJob:
    """One run of a job's work in `folder`."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        with left.appended(folder / LOG_FILE) as log:
            self._child = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment(folder / "tmp"),
                start_new_session=True,
            )
        self._namespace: Namespace | None = None
        self._mark = _mark(folder)
        found = [member for member in _members(self.pid) if member[0] == self.pid]
        mark = Mark(self.pid, found[0][2] if found else 0)
        self._mark.write_bytes(msgspec.json.encode(mark))

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._child.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._namespace = self._namespace or namespace_of(self.pid)
        return self._child.poll()

    def memory_bytes(self) -> int:
        """Resident memory of the whole group; pages that several share count for each."""
        return sum(rss for _, rss, _ in _members(self.pid))

    def kill(self) -> None:
        """End the whole group now, also what the process has left behind."""
        namespace = self._namespace or namespace_of(self.pid)
        _kill_group(self.pid)
        self._child.wait()
        end_all(namespace)
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._mark.unlink(missing_ok=True)


def end_leftovers(folder: Path) -> None:
    """End what an earlier server has left of a job. Raises TimeoutError when it will not end."""
    try:
        mark = msgspec.json.decode(_mark(folder).read_bytes(), type=Mark)
    except (FileNotFoundError, *UNREADABLE):
        return
    deadline = time.monotonic() + END_S
    while any(pid == mark.pid and began == mark.started for pid, _, began in _members(mark.pid)):
        _kill_group(mark.pid)
        if time.monotonic() > deadline:
            raise TimeoutError(f"Process {mark.pid} does not end.")
        time.sleep(0.02)
    _mark(folder).unlink()


def _mark(folder: Path) -> Path:
    return folder.with_name(folder.name + PROCESS_SUFFIX)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _members(group: int) -> list[tuple[int, int, int]]:
    """Process id, resident bytes and start of every process of a group, from /proc/PID/stat."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name may hold anything; after its last parenthesis come numbers.
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, of_group, began, pages = fields[0], fields[2], fields[19], fields[21]
        if int(of_group) == group and state != b"Z":
            found.append((int(name), int(pages) * _PAGE, int(began)))
    return found
