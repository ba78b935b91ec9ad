"""Data files: what is uploaded to train on."""

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from lmaas.config import Settings
from lmaas.errors import Conflict, Forbidden, InvalidInput
from lmaas.job import Job, JobState
from lmaas.jobs.store import Jobs
from lmaas.placement.left import needed_for
from lmaas.placement.waiting import to_end
from lmaas.recipe import DataChoice
from lmaas.registry.data_files import DataFile, Files
from lmaas.registry.uploads import Upload, Uploads
from lmaas.service.quota import Quota
from lmaas.service.workshop import Workshop
from lmaas.types import TENANT

DATA_FILES: Final = ("train", "validation", "test")
CHECK_MEMORY_BYTES: Final = 4 << 30
"""Memory bound of the check of a data file: several times the longest line that is read."""


class DataFiles:
    """The data files of one home; `queue` knows which of them jobs need."""

    def __init__(
        self, settings: Settings, files: Files, queue: Jobs, workshop: Workshop, quota: Quota
    ) -> None:
        self.uploads = Uploads(settings.home_path, files, settings.max_upload_bytes)
        self._settings = settings
        self._files = files
        self._queue = queue
        self._workshop = workshop
        self._quota = quota

    async def add(self, tenant: str, source: Path) -> DataFile:
        """Check a file of this home's device and take it over as training data.

        Raises InvalidInput, with the line, for what no task can read.
        """
        stop = threading.Event()
        await to_end(asyncio.to_thread(self._quota.check, tenant, source.stat().st_size))
        await to_end(asyncio.to_thread(self._check, source, stop), stop)
        add = asyncio.to_thread(self._files.add, tenant, source, purpose="fine-tune")
        return await to_end(add)

    async def complete(
        self, tenant: str, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None
    ) -> Upload:
        """Make a data file of an upload's parts. Raises NotFound, Conflict, InvalidInput."""
        stop = threading.Event()
        async with self._workshop.scratch("upload") as scratch:
            work = partial(
                self.uploads.complete,
                tenant,
                upload_id,
                part_ids,
                scratch,
                md5=md5,
                check=partial(self._check_upload, tenant, stop=stop),
            )
            return await to_end(asyncio.to_thread(work), stop)

    def _check_upload(self, tenant: str, path: Path, stop: threading.Event) -> None:
        self._quota.check(tenant, path.stat().st_size)
        self._check(path, stop)

    def _check(self, path: Path, stop: threading.Event) -> None:
        """Look through a data file in a sandboxed child."""
        with self._workshop.folder("check") as scratch:
            self._workshop.run_child(
                "lmaas.data.checking",
                {"path": str(path)},
                scratch,
                reads=(path,),
                memory_bytes=min(CHECK_MEMORY_BYTES, self._settings.compile_memory_bytes),
                work=f"Checking {path.name}",
                stop=stop,
            )

    def all(self, tenant: str) -> list[DataFile]:
        """All data files of `tenant`, newest first."""
        return self._files.list(tenant)

    def get(self, tenant: str, file_id: str) -> DataFile:
        """What is known of a data file. Raises NotFound."""
        return self._files.get(tenant, file_id)

    def path(self, tenant: str, file_id: str) -> Path:
        """Where a data file's content is. Raises NotFound."""
        return self._files.path(tenant, file_id)

    def remove(self, tenant: str, file_id: str) -> DataFile:
        """Delete a data file. Raises NotFound, and Conflict while a job needs it."""
        waiting: tuple[JobState, ...] = ("queued", "running", "paused")
        for state in waiting:
            for job in self._queue.every(tenant, state, "train"):
                if file_id in [job.recipe["data"].get(split) for split in DATA_FILES]:
                    raise Conflict(f"The job {job.id} needs {file_id}.", param="file")
        return self._files.remove(tenant, file_id)

    def locate(self, job: Job) -> tuple[dict[str, Any], list[Path]]:
        """A job's recipe with paths in place of ids of files, and all that must be read for it."""
        data, reads = dict(job.recipe["data"]), list[Path]()
        for split in DATA_FILES:
            given = data.get(split)
            if self._files.is_id(given):
                path = self._files.path(job.tenant, given)
                data[split] = str(path)
                reads.append(path)
            elif job.tenant == TENANT and isinstance(given, str) and Path(given).exists():
                reads += needed_for(Path(given))
        return {**job.recipe, "data": data}, reads

    def check_named(self, tenant: str, data: DataChoice) -> None:
        """Raise Forbidden, NotFound or InvalidInput for what a recipe may not learn from."""
        for split in DATA_FILES:
            given = getattr(data, split)
            if isinstance(given, str) and not self._files.is_id(given) and tenant != TENANT:
                raise Forbidden(
                    f"Only jobs of the tenant {TENANT} read paths of the server's machine.",
                    hint="Upload the file, and give its id.",
                    param=f"data.{split}",
                )
            if self._files.is_id(given):
                purpose = self._files.get(tenant, given).purpose
                if purpose != "fine-tune":
                    raise InvalidInput(
                        f"{given} is of the purpose {purpose}, no training data.",
                        param=f"data.{split}",
                    )
