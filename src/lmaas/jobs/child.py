"""The inside of a job's process: bind yourself, do the work, tell how it ended.

`python -P -m lmaas.jobs.child FOLDER` reads FOLDER/job.json. Exit codes: 0, the result is complete
and `done` lies beside it; `job.PAUSED_EXIT`, a checkpoint is written because a pause was asked for;
1, `error.json` says why. Anything else is a crash. What is printed is the job's log.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from lmaas import lean_imports
from lmaas.errors import FULL, DoesNotFit, LMaaSError, MissingExtra, StorageFull
from lmaas.job import EVENTS_FILE, PAUSED_EXIT, JobError, JobEvent
from lmaas.placement.isolation import Confinement, confine
from lmaas.types import Record

TASK_FILE = "job.json"
ERROR_FILE = "error.json"
DONE_FILE = "done"
NICENESS = 10
PROCESSES = 2048
SHARED_BYTES = 4 << 30
FAILED_EXIT = 1

Tell = Callable[[JobEvent], None]


class Task(Record, frozen=True, kw_only=True):
    """What the process is to do. `base` is the folder of the registered model to train on.

    It reads `reads` beside its folder, and writes `disk_bytes` there; `required` has it refuse to
    run where a part of its isolation is missing. `memory_bytes` is what the process and all that it
    starts may use together.
    """

    id: str
    kind: Literal["train"]
    recipe: dict[str, Any]
    reads: tuple[str, ...] = ()
    base: str | None = None
    disk_bytes: int | None = None
    required: bool = False
    memory_bytes: int | None = None


Work = Callable[[Task, Path, Tell], bool]
"""Does a task in a folder; whether it is done, else it is paused."""


def main(folder: Path, work: Work | None = None) -> int:
    """Do the work of the folder's task; the exit code."""
    task = msgspec.json.decode((folder / TASK_FILE).read_bytes(), type=Task)
    try:
        confine(
            Confinement(
                reads=task.reads,
                writes=(str(folder.absolute()),),
                loopback=True,
                file_bytes=task.disk_bytes,
                processes=PROCESSES,
                shared_bytes=SHARED_BYTES,
                required=task.required,
            )
        )
    except LMaaSError as error:
        _write(folder / ERROR_FILE, msgspec.json.encode(_told(error)))
        return FAILED_EXIT
    _end_with_server()
    os.nice(NICENESS)
    with (folder / EVENTS_FILE).open("ab+") as events:
        _end_line(events)

        def tell(event: JobEvent) -> None:
            events.write(msgspec.json.encode(event) + b"\n")
            events.flush()

        try:
            done = (work or train)(task, folder, tell)
        except Exception as error:  # noqa: BLE001 - the outermost frame: every failure is told
            traceback.print_exception(error)
            _write(folder / ERROR_FILE, msgspec.json.encode(_told(error)))
            return FAILED_EXIT
    if not done:
        return PAUSED_EXIT
    _write(folder / DONE_FILE, b"")
    return 0


def train(task: Task, folder: Path, tell: Tell) -> bool:
    """The work of the kind "train"."""
    from lmaas.recipe import recipe_of
    from lmaas.training import curves
    from lmaas.training.run import run

    base, done = Path(task.base) if task.base else None, False
    try:
        done = run(
            recipe_of(task.recipe), folder, task.id, tell, base=base, memory_bytes=task.memory_bytes
        )
    finally:
        if not done:
            # How far it came is worth seeing, but no reason to end otherwise than it does.
            with contextlib.suppress(OSError):
                curves.write(folder)
    return done


def message(text: str, level: Literal["info", "warn", "error"] = "info") -> JobEvent:
    """An event that only says something, now."""
    return JobEvent(type="message", message=text, created_at=time.time(), level=level)


def _told(error: Exception) -> JobError:
    if isinstance(error, MemoryError):
        error = DoesNotFit(
            "The job ran out of memory.", hint="Use a smaller batch or model, or accumulate."
        )
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "lmaas").startswith("lmaas"):
        module = str(error.name).partition(".")[0]
        extra = module if module in ("keras", "tensorflow") else "train"
        error = MissingExtra(
            f"The job needs {module}, which is not installed here.",
            hint=f"pip install 'lmaas[{extra}]' where the server runs, and start the job again.",
        )
    elif (code := _system_error(error)) in FULL:
        written = getattr(error, "filename", None) or "its result"
        error = StorageFull(
            f"No space left while the job wrote {written}: {os.strerror(code)}.",
            hint="Free space on the device of LMAAS_HOME; the last checkpoint is whole.",
        )
    if isinstance(error, LMaaSError):
        return JobError(code=error.code, message=error.message, hint=error.hint, param=error.param)
    return JobError(
        code=LMaaSError.code,
        message=f"{type(error).__name__}: {error}",
        hint="The job's log shows where it happened: `lmaas jobs logs`.",
    )


def _system_error(error: Exception) -> int:
    """What the system said no with, 0 for what is no matter of the system."""
    from lmaas.training.checkpoint import system_error

    return (error.errno if isinstance(error, OSError) else system_error(error)) or 0


def _write(path: Path, content: bytes) -> None:
    written = path.with_name(f"{path.name}.new")
    written.write_bytes(content)
    written.replace(path)


def _end_line(events: Any) -> None:
    """A process that was killed may have left half a line."""
    if events.seek(0, os.SEEK_END):
        events.seek(-1, os.SEEK_END)
        if events.read(1) != b"\n":
            events.write(b"\n")
            events.flush()


def _end_with_server() -> None:
    """End this process group when the server's end of standard input closes."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-server", daemon=True).start()


if __name__ == "__main__":
    lean_imports.install()
    sys.exit(main(Path(sys.argv[1])))
