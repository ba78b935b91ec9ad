"""The queue of jobs: training is put into it and run; jobs of all kinds are followed and ended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import sqlalchemy as sa

from lmaas.config import Settings
from lmaas.errors import Unavailable
from lmaas.job import (
    RESULT_FOLDER,
    Job,
    JobCheckpoint,
    JobKind,
    JobState,
    StoredEvent,
    raise_error,
)
from lmaas.jobs.artifacts import Artifacts, CheckpointModels
from lmaas.jobs.claims import Claims
from lmaas.jobs.inputs import Inputs
from lmaas.jobs.process import log_tail
from lmaas.jobs.runner import Runner
from lmaas.jobs.store import Jobs
from lmaas.placement.base import Placement
from lmaas.placement.left import check_plain
from lmaas.placement.waiting import to_end
from lmaas.recipe import Recipe
from lmaas.registry.names import check_name
from lmaas.registry.store import Registry
from lmaas.service.catalog import Catalog, check_files
from lmaas.service.data import DATA_FILES, DataFiles
from lmaas.service.workshop import Workshop
from lmaas.supervision import Supervisor

FIRST_EVENTS: Final = 20
"""Among so many a job tells what its data are."""
FOLLOW_S: Final = 0.2
MAX_LOG_BYTES: Final = 1 << 20


class JobQueue:
    """The jobs of one home, and the runner of those that train."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        queue: Jobs,
        results: Artifacts,
        data: DataFiles,
        catalog: Catalog,
        workshop: Workshop,
        placement: Placement,
    ) -> None:
        self.checkpoints = CheckpointModels(queue, catalog.has, self._publish_checkpoint)
        self._settings = settings
        self._registry = registry
        self._revision = registry.database.watch("jobs")
        self._queue = queue
        self._results = results
        self._data = data
        self._catalog = catalog
        self._workshop = workshop
        self._placement = placement
        self.folder = results.folder
        self.inputs = Inputs(self.folder)
        self._runner: Runner | None = None
        self._closing = False

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Begin to run the queue's jobs. Only for who holds the home's lock."""
        settings = self._settings
        if not settings.max_running_jobs:
            return
        self._runner = Runner(
            self.folder,
            Claims(self._registry.database),
            self._revision,
            self._placement,
            publish=self._publish_result,
            unpack=self._unpack_base,
            locate=self._data.locate,
            max_running=settings.max_running_jobs,
            max_per_tenant=settings.max_tenant_jobs,
            memory_bytes=settings.job_memory_bytes or self._placement.node.memory_bytes,
            tenant_memory_bytes=settings.tenant_job_memory_bytes,
            disk_bytes=settings.job_disk_bytes,
            required=settings.isolation == "required",
        )
        await self._runner.start(supervisor)

    async def close(self, deadline_s: float) -> None:
        """Have running jobs write a checkpoint and queue again, within `deadline_s`."""
        self._closing = True
        if self._runner is not None:
            await self._runner.close(deadline_s)

    def add(
        self,
        tenant: str,
        recipe: Recipe,
        *,
        key_id: str = "",
        priority: int = 0,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> Job:
        """Put a training run into the queue; a server of this home runs it.

        The base model is what its reference names now. Raises InvalidInput, ModelNotFound.
        """
        check_name(recipe.name)
        if recipe.model.base is not None:
            base = self._registry.resolve(tenant, recipe.model.base)
            check_files(base, "to train on", param="model.base")
            model = msgspec.structs.replace(recipe.model, base=base.ref)
            recipe = msgspec.structs.replace(recipe, model=model)
        self._data.check_named(tenant, recipe.data)
        plain = msgspec.to_builtins(recipe)
        return self._queue.add(
            tenant,
            key_id,
            "train",
            recipe.name,
            plain,
            priority=priority,
            metadata=metadata,
        )

    def page(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        state: JobState | None = None,
        kind: JobKind | None = None,
    ) -> list[Job]:
        """Jobs of `tenant`, newest first; `after` is the last id of the page before."""
        return self._queue.page(tenant, after=after, limit=limit, state=state, kind=kind)

    def get(self, tenant: str, job_id: str) -> Job:
        """One job with the checkpoints that are still there. Raises NotFound."""
        return self._results.present(self._queue.get(tenant, job_id))

    def trained_tokens(self, job: Job) -> int | None:
        """How many tokens an ended job has learned from, each as often as it was seen.

        None where data are no tokens, or nothing was learned.
        """
        if not job.ended or job.resolved is None or "step" not in job.progress:
            return None
        # The last step is told where it is evaluated, as it is before an early stop.
        whole = job.state == "succeeded" and job.resolved["early_stopping"] is None
        steps = job.progress["total_steps" if whole else "step"]
        for event in self._queue.events(job.tenant, job.id, limit=FIRST_EVENTS):
            if "tokens" in event.data:
                rows = event.data["rows"]
                per_epoch = -(-rows // min(rows, job.resolved["batch_size"]))
                return int(event.data["tokens"] * steps / per_epoch)
        return None

    def cancel(self, tenant: str, job_id: str) -> Job:
        """End a job within seconds. Raises NotFound, and Conflict for one that has ended."""
        job = self._queue.cancel(tenant, job_id)
        if job.ended:
            self.inputs.drop(job_id)
        return job

    def pause(self, tenant: str, job_id: str) -> Job:
        """Hold a training run or a pull where it is. Raises NotFound, Conflict, InvalidInput."""
        return self._queue.pause(tenant, job_id)

    def resume(self, tenant: str, job_id: str) -> Job:
        """Put a paused job back into the queue. Raises NotFound, Conflict."""
        return self._queue.resume(tenant, job_id)

    def events(
        self, tenant: str, job_id: str, *, after: int = 0, limit: int = 100
    ) -> list[StoredEvent]:
        """A job's events in order, those after number `after`. Raises NotFound."""
        return self._queue.events(tenant, job_id, after=after, limit=limit)

    def last_events(
        self, tenant: str, job_id: str, limit: int, *, before: int | None = None
    ) -> list[StoredEvent]:
        """The newest `limit` events of those before number `before`, in order."""
        return self._queue.last_events(tenant, job_id, limit, before=before)

    async def follow(
        self, tenant: str, job_id: str, *, after: int = 0
    ) -> AsyncIterator[StoredEvent]:
        """A job's events as they come, until it ends or is paused, or the service drains.

        Raises NotFound.
        """
        seen = -1
        while not self._closing:
            version = self._revision()
            if version != seen:
                seen = version
                job = await asyncio.to_thread(self._queue.get, tenant, job_id)
                while events := await asyncio.to_thread(
                    self._queue.events, tenant, job_id, after=after, limit=1000
                ):
                    after = events[-1].seq
                    for event in events:
                        yield event
                if job.ended or job.state == "paused":
                    return
            await asyncio.sleep(FOLLOW_S)

    async def finished(self, tenant: str, job_id: str) -> Job:
        """A job once it has succeeded. Raises what it failed with, Cancelled, and Unavailable where
        it is paused or waits for the next server.
        """
        async for _ in self.follow(tenant, job_id):
            pass
        job = await asyncio.to_thread(self._queue.get, tenant, job_id)
        raise_error(job)
        if not job.ended:
            raise Unavailable(
                f"The job {job_id} is {job.state} and goes on later.",
                hint=f"GET /api/jobs/{job_id} tells how it stands.",
            )
        return job

    def file(self, tenant: str, job_id: str, name: str) -> Path:
        """Where a job's learning curves are: `METRICS_FILE` or `CURVES_FILE`. Raises NotFound."""
        return self._results.path(self._queue.get(tenant, job_id), name)

    def result_files(self, job: Job) -> list[str]:
        """The ids of the data files that a job has made."""
        return self._results.files(job)

    async def log(self, tenant: str, job_id: str) -> str:
        """The end of what a job's process has printed. Raises NotFound."""
        await asyncio.to_thread(self._queue.get, tenant, job_id)
        return await asyncio.to_thread(log_tail, self.folder / job_id, MAX_LOG_BYTES)

    async def _publish_result(
        self, job: Job, package: Path, succeed: Callable[[sa.Connection, str], None]
    ) -> None:
        async with self._workshop.scratch("results") as scratch:
            await to_end(asyncio.to_thread(check_plain, package))
            await to_end(asyncio.to_thread(self._results.keep, job, package, scratch))
        try:
            await self._catalog.publish(
                job.tenant, package, origin="train", name=job.name, beside=succeed
            )
        except BaseException:
            # Cut off, it may have been registered all the same.
            await to_end(asyncio.to_thread(self._drop_unless_registered, job))
            raise

    def _drop_unless_registered(self, job: Job) -> None:
        if self._queue.get(job.tenant, job.id).state != "succeeded":
            self._results.drop(job)

    async def _publish_checkpoint(self, job: Job, point: JobCheckpoint) -> None:
        """Register a checkpoint as a model, without training."""
        async with self._workshop.scratch("checkpoint") as scratch:
            folder, base = scratch / "run", scratch / "base"
            await to_end(asyncio.to_thread(self._results.take, job, point, folder))
            has_base = await to_end(asyncio.to_thread(self._unpack_base, job, base))
            resolved = job.resolved or job.recipe
            # What is read is what was asked for: a job tells itself what it has made of the rest.
            data = {**resolved["data"], **{s: job.recipe["data"].get(s) for s in DATA_FILES}}
            model = {**resolved["model"], "base": job.recipe["model"].get("base")}
            recipe = {**resolved, "data": data, "model": model, "name": point.model}
            job = msgspec.structs.replace(job, recipe=recipe)
            locate = asyncio.to_thread(self._data.locate, job)
            located, reads = await to_end(locate)
            request = {
                "folder": str(folder),
                "recipe": located,
                "job": job.id,
                "base": str(base) if has_base else None,
            }
            reads += [base] if has_base else []
            await self._workshop.child("lmaas.training.export", request, scratch, reads=reads)
            await self._catalog.publish(job.tenant, folder / RESULT_FOLDER, origin="train")

    def _unpack_base(self, job: Job, folder: Path) -> bool:
        """The package of the version that a job trains on, into `folder`."""
        ref = job.recipe.get("model", {}).get("base")
        if ref is None:
            return False
        self._registry.unpack_package(self._registry.resolve(job.tenant, ref), folder)
        return True
