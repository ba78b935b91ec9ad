"""The folder that a job's process works in, as the runner sees it. Knows no queue.

The process itself is started by a placement; `lmaas.jobs.child` is its inside.
"""

import contextlib
import sys
from pathlib import Path

import msgspec

from lmaas.job import CONTROL_FILE, EVENTS_FILE, LOG_FILE, RESULT_FOLDER, JobError, JobEvent
from lmaas.jobs.child import DONE_FILE, ERROR_FILE, TASK_FILE, Task
from lmaas.placement import left
from lmaas.types import UNREADABLE

COMMAND = (sys.executable, "-P", "-m", "lmaas.jobs.child")
DERIVED_FOLDERS = ("data", "new", "trained")
"""What problems make of their data and models on the way; made again when it is gone."""
TAIL_BYTES = 2000
MAX_READ_BYTES = 1 << 20
MAX_EVENT_BYTES = 1 << 16
"""A longer event is not kept: they become rows of the database."""


def ask(folder: Path, word: str) -> None:
    """Write "pause" or "cancel" where a job's process looks between two steps."""
    left.write(folder / CONTROL_FILE, word.encode())


def prepare(folder: Path) -> None:
    """Make the folder of a job ready for a process; what a run can be taken up from stays."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
