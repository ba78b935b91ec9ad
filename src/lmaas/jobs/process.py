"""A job's process from the outside: its group, its memory, its files. Knows no queue.

The process leads a group of its own, so that what it starts ends with it. It has a pipe as its
standard input whose other end only the server holds: when the server dies, however it dies, the
group ends itself (`lmaas.jobs.child`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lmaas.job import CONTROL_FILE, EVENTS_FILE, RESULT_FOLDER, JobError, JobEvent
from lmaas.jobs.child import DONE_FILE, ERROR_FILE, TASK_FILE, Task
from lmaas.placement import left
from lmaas.placement.sandbox import environment
from lmaas.placement.survivors import Namespace, end_all, namespace_of
from lmaas.types import UNREADABLE

COMMAND = (sys.executable, "-P", "-m", "lmaas.jobs.child")
LOG_FILE = "log"
PROCESS_SUFFIX = ".process"
"""Which process a job has, noted beside its folder: in it, the job could name another."""
DERIVED_FOLDERS = ("data", "new", "trained")
"""What problems make of their data and models on the way; made again when it is gone."""
TAIL_BYTES = 2000
MAX_READ_BYTES = 1 << 20
MAX_EVENT_BYTES = 1 << 16
"""A longer event is not kept: they become rows of the database."""
END_S = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Mark(msgspec.Struct, frozen=True):
    """Which process a folder's job had: its id, and when it began, in the kernel's ticks."""

    pid: int
    started: int


class JobProcess:
    """One run of a job's work in `folder`."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
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
        found = [member for member in _members(self.pid) if member[0] == self.pid]
        mark = Mark(self.pid, found[0][2] if found else 0)
        _mark(folder).write_bytes(msgspec.json.encode(mark))

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._child.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._namespace = self._namespace or namespace_of(self.pid)
        return self._child.poll()

    def ask(self, word: str) -> None:
        """Write "pause" or "cancel" where the work looks between two steps."""
        left.write(self.folder / CONTROL_FILE, word.encode())

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


def prepare(folder: Path) -> None:
    """Make the folder of a job ready for a process; what a run can be taken up from stays."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    end_leftovers(folder)
    for name in (CONTROL_FILE, f"{CONTROL_FILE}.new", ERROR_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in ("tmp",) if (folder / DONE_FILE).exists() else ("tmp", RESULT_FOLDER):
        _clear(folder / name)
    (folder / "tmp").mkdir()


def base_folder(folder: Path) -> Path:
    """Where a job's base model lies: beside its folder, in which it could lay another."""
    return folder.with_name(f"{folder.name}.base")


def _clear(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        left.remove(path)


def tell(folder: Path, task: Task) -> None:
    """Write what the process is to do."""
    left.write(folder / TASK_FILE, msgspec.json.encode(task))


def tidy(folder: Path) -> None:
    """Remove what nobody needs after a job's end: its log, events and checkpoints stay."""
    for name in ("tmp", RESULT_FOLDER, *DERIVED_FOLDERS):
        left.remove(folder / name)
    left.remove(base_folder(folder))
    (folder / DONE_FILE).unlink(missing_ok=True)
    _mark(folder).unlink(missing_ok=True)


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


def read_events(folder: Path, offset: int) -> tuple[list[JobEvent], int]:
    """The whole lines of the events' file after byte `offset`, and where they end.

    A line that is none, such as what a killed process had not finished, is skipped.
    """
    try:
        data = left.read(folder / EVENTS_FILE, MAX_READ_BYTES, start=offset)
    except FileNotFoundError:
        return [], offset
    whole, newline, _ = data.rpartition(b"\n")
    if not newline:
        # Longer than all we read at once is no event of ours: go on after it.
        return [], offset + (len(data) if len(data) == MAX_READ_BYTES else 0)
    events = []
    for line in whole.split(b"\n"):
        if len(line) > MAX_EVENT_BYTES:
            continue
        with contextlib.suppress(*UNREADABLE):
            events.append(msgspec.json.decode(line, type=JobEvent))
    return events, offset + len(whole) + 1


def read_error(folder: Path) -> JobError | None:
    """The error that the work ended with, if it told one."""
    try:
        return msgspec.json.decode(left.read(folder / ERROR_FILE, MAX_READ_BYTES), type=JobError)
    except (FileNotFoundError, *UNREADABLE):
        return None


def log_tail(folder: Path, size_bytes: int = TAIL_BYTES) -> str:
    """The last `size_bytes` of what the process has printed."""
    try:
        return left.tail(folder / LOG_FILE, size_bytes).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


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
