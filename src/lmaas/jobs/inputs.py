"""What a caller gave with a job: a hub token, a text, uploaded files. Kept until the job ends.

A folder beside the job's own, its owner's only. What lies here is in no row, event or log: who
lists jobs or copies the database sees none of it.
"""

import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Final

from lmaas.placement import left

SUFFIX: Final = ".input"
TOKEN: Final = "token"  # noqa: S105 - the name of a file


class Inputs:
    """The inputs of one home's jobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, job_id: str) -> Path:
        """Where those of a job lie."""
        return self._folder / f"{job_id}{SUFFIX}"

    def make(self, job_id: str) -> Path:
        """The folder for those of a job."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self.place(job_id)
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    def put(self, job_id: str, name: str, content: str) -> None:
        """Keep a text, in place of an older one."""
        path = self.make(job_id) / name
        written = path.with_name(f"{name}.new")
        written.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(written, flags, 0o600), "w", encoding="utf-8", newline="") as file:
            file.write(content)
        written.replace(path)

    def get(self, job_id: str, name: str) -> str | None:
        """A text, if there is one."""
        try:
            with (self.place(job_id) / name).open(encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def drop(self, job_id: str) -> None:
        """Forget all that came with a job that has ended."""
        left.remove(self.place(job_id))

    def tidy(self, unfinished: Callable[[], Container[str]]) -> None:
        """Forget those of all other jobs: a server may have died before it did.

        `unfinished` is asked once the folders are listed, so that it knows the job of each.
        """
        places = list(self._folder.glob(f"*{SUFFIX}"))
        known = unfinished()
        for place in places:
            if place.name.removesuffix(SUFFIX) not in known:
                left.remove(place)
