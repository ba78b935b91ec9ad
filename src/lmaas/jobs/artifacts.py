"""What runs leave in their folders: learning curves, and checkpoints that can become models.

Knows the folders of jobs and data files, no process and no registry.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from lmaas.errors import NotFound
from lmaas.job import (
    CHECKPOINTS_FOLDER,
    CURVES_FILE,
    METRICS_FILE,
    RUN_FILE,
    Job,
    JobCheckpoint,
    checkpoint_folder,
)
from lmaas.jobs.store import Jobs
from lmaas.placement import left
from lmaas.registry.data_files import Files

MAX_METRICS_BYTES: Final = 1 << 30
MAX_RUN_BYTES: Final = 64 << 20
CHECKPOINT_MODEL: Final = re.compile(r"(?P<model>.+\.step-\d{1,9}\.[0-9a-f]{8})(?:[:@].*)?")

Exists = Callable[[str, str], Awaitable[bool]]
"""Whether a tenant has a model of this name."""
Make = Callable[[Job, JobCheckpoint], Awaitable[None]]
"""Register a checkpoint as the model that it is called."""


class Artifacts:
    """The folders of one home's jobs."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self._files = files

    def path(self, job: Job, name: str) -> Path:
        """Where a job's `METRICS_FILE` or `CURVES_FILE` is. Raises NotFound."""
        assert name in (METRICS_FILE, CURVES_FILE)
        path = self.folder / job.id / name
        if path.is_symlink() or not path.is_file():
            raise NotFound(
                f"The job {job.id} has no {name}.",
                hint="It is written when a run ends or is paused, if it told any metrics.",
                param="job",
            )
        return path

    def keep(self, job: Job, package: Path, scratch: Path) -> None:
        """Make the metrics in a package a data file, by way of a folder of this home's device."""
        source = package / METRICS_FILE
        if source.exists():
            copy = scratch / METRICS_FILE
            copy.write_bytes(left.read(source, MAX_METRICS_BYTES))
            self._files.add(job.tenant, copy, purpose="fine-tune-results", file_id=_file_id(job))

    def drop(self, job: Job) -> None:
        """Remove that data file."""
        for file_id in self._kept(job):
            self._files.remove(job.tenant, file_id)

    def files(self, job: Job) -> list[str]:
        """The ids of the data files that a job has left, as long as nobody deletes them."""
        return self._kept(job) if job.state == "succeeded" else []

    def _kept(self, job: Job) -> list[str]:
        try:
            return [self._files.get(job.tenant, _file_id(job)).id]
        except NotFound:
            return []

    def present(self, job: Job) -> Job:
        """The job with those of its checkpoints that are still there."""
        points = tuple(
            point for point in job.checkpoints if (self.folder / job.id / _place(point)).exists()
        )
        return msgspec.structs.replace(job, checkpoints=points)

    def take(self, job: Job, point: JobCheckpoint, folder: Path) -> None:
        """Put what a checkpoint's model is made of into `folder`. Raises NotFound."""
        source = self.folder / job.id
        (folder / CHECKPOINTS_FOLDER).mkdir(parents=True)
        try:
            # Links: a run that goes on may remove its older checkpoints meanwhile.
            place = folder / _place(point)
            left.check_inside(self.folder, source / _place(point))
            shutil.copytree(source / _place(point), place, symlinks=True, copy_function=_link)
            left.check_plain(place)
            (folder / RUN_FILE).write_bytes(left.read(source / RUN_FILE, MAX_RUN_BYTES))
        except (FileNotFoundError, shutil.Error):
            raise NotFound(
                f"The checkpoint of step {point.step} is not there any more.",
                hint="checkpoints.keep in a recipe says how many of the newest stay.",
                param="model",
            ) from None


class CheckpointModels:
    """Makes models of checkpoints when somebody calls them, each once and one at a time."""

    def __init__(self, queue: Jobs, exists: Exists, make: Make) -> None:
        self._queue = queue
        self._exists = exists
        self._make = make
        self._making: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def ensure(self, tenant: str, ref: str) -> None:
        """If `ref` is what a checkpoint is called and there is no such model, make it.

        Names that no checkpoint has are left to whoever resolves them.
        """
        if ".step-" not in ref or (matched := CHECKPOINT_MODEL.fullmatch(ref)) is None:
            return
        name = matched["model"]
        if await self._exists(tenant, name):
            return
        if (tenant, name) not in self._making:
            found = await asyncio.to_thread(self._queue.checkpoint, tenant, name)
            if found is None:
                return
            if (tenant, name) not in self._making:
                task = asyncio.create_task(self._one(*found))
                self._making[tenant, name] = task
                task.add_done_callback(lambda _: self._making.pop((tenant, name)))
        # Who asked may go away; others wait for the same.
        await asyncio.shield(self._making[tenant, name])

    async def _one(self, job: Job, point: JobCheckpoint) -> None:
        async with self._turn:
            await self._make(job, point)


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _place(point: JobCheckpoint) -> Path:
    return Path(CHECKPOINTS_FOLDER) / checkpoint_folder(point.step)


def _file_id(job: Job) -> str:
    """Always the same, so that a server that dies in between leaves no second file."""
    return "file-" + job.id.removeprefix("ftjob-")
