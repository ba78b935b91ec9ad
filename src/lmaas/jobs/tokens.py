"""The hub token that a caller gave with a job: a file beside the job's folder, until the job ends.

Never a column, an event or a line of a log: it is read by the job alone, and by nobody who lists
jobs or copies the database. The file is its owner's only.
"""

import os
from collections.abc import Container
from pathlib import Path
from typing import Final

SUFFIX: Final = ".token"


def put(folder: Path, job_id: str, token: str) -> None:
    """Keep the token of a job, in place of an older one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(folder, job_id)
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(written, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(token)
    written.replace(path)


def get(folder: Path, job_id: str) -> str | None:
    """The token of a job, if it was given one."""
    try:
        return _path(folder, job_id).read_text("utf-8")
    except FileNotFoundError:
        return None


def drop(folder: Path, job_id: str) -> None:
    """Forget the token of a job that has ended."""
    _path(folder, job_id).unlink(missing_ok=True)


def tidy(folder: Path, unfinished: Container[str]) -> None:
    """Forget those of all other jobs: a server may have died before it did."""
    for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{SUFFIX}.new")):
        if path.name.partition(".")[0] not in unfinished:
            path.unlink(missing_ok=True)


def _path(folder: Path, job_id: str) -> Path:
    return folder / f"{job_id}{SUFFIX}"
