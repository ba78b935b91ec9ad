"""Jobs that bring and change models: queued at once, done by the server or by who waits for them.

What they do is the catalog's; how they are claimed and followed is `lmaas.jobs`.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from lmaas.config import Settings
from lmaas.hub.pull import check_task
from lmaas.hub.repo import default_name, parse_ref
from lmaas.job import Job, JobKind, StoredEvent
from lmaas.jobs import tokens
from lmaas.jobs.claims import Claims
from lmaas.jobs.in_process import InProcess, Reporter, Succeed, Work
from lmaas.jobs.store import Jobs
from lmaas.registry.lock import HomeLock, alone
from lmaas.registry.names import check_name
from lmaas.registry.store import Registry
from lmaas.service.catalog import Catalog
from lmaas.service.jobs import JobQueue
from lmaas.types import PullBody, PullProgress, Record

KEEP: Final = "keep_download"
"""The note of a pull whose downloaded files stay."""
RUNNER_SUFFIX: Final = ".runner"
LOOK_S: Final = 0.1
PAGE: Final = 1000


class PullRecipe(Record, frozen=True, kw_only=True):
    """What a pull's row says. `endpoint` is another hub than the server's own."""

    repo: str
    name: str
    task: str | None = None
    endpoint: str | None = None


class ModelJobs:
    """Pulls of one home."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        rows: Jobs,
        queue: JobQueue,
        catalog: Catalog,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._rows = rows
        self._queue = queue
        self._catalog = catalog
        self._folder = queue.folder
        self._lane: InProcess | None = None
        self._works: dict[JobKind, Work] = {"pull": self._pull}

    async def start(self) -> None:
        """Begin to run the queue's jobs. Only for who holds the home's lock."""
        unfinished = await asyncio.to_thread(self._rows.unfinished)
        await asyncio.to_thread(tokens.tidy, self._folder, unfinished)
        self._lane = self._made()
        await self._lane.start()

    async def close(self, deadline_s: float) -> None:
        """Stop pulls, which go on later, and let the others end within `deadline_s`."""
        if self._lane is not None:
            await self._lane.close(deadline_s)

    def pull(
        self,
        tenant: str,
        body: PullBody,
        *,
        key_id: str = "",
        keep: bool = False,
        endpoint: str | None = None,
    ) -> Job:
        """Queue the download and registration of a hub's model; see `Catalog.pull`.

        A pull of the same that has not ended is the one that is returned, with the newer token.
        `keep` has the downloaded files stay. Raises InvalidInput, QueueFull.
        """
        ref = parse_ref(body.repo)
        name = default_name(ref) if body.name is None else check_name(body.name)
        check_task(body.task)
        recipe = PullRecipe(repo=body.repo, name=name, task=body.task, endpoint=endpoint)

        def keep_token(job_id: str) -> None:
            if body.token is not None:
                tokens.put(self._folder, job_id, body.token)

        return self._rows.add(
            tenant,
            key_id,
            "pull",
            name,
            msgspec.to_builtins(recipe),
            metadata={KEEP: "true"} if keep else {},
            joins=True,
            beside=keep_token,
        )

    async def see_through(
        self, job: Job, heard: Callable[[StoredEvent], None] = lambda _: None
    ) -> Job:
        """A job at its end, or once it is paused; run here while no server of this home lives.

        For who has no server to ask. `heard` is told each event. Cut off, the job waits for the
        next server, or for who calls this again.
        """
        after, place = 0, self._folder / f"{job.id}{RUNNER_SUFFIX}"
        with alone(place) as lock:
            lane: InProcess | None = None
            try:
                while True:
                    job = await asyncio.to_thread(self._rows.get, job.tenant, job.id)
                    while events := await asyncio.to_thread(
                        self._rows.events, job.tenant, job.id, after=after, limit=PAGE
                    ):
                        after = events[-1].seq
                        for event in events:
                            heard(event)
                    if job.ended:
                        place.unlink(missing_ok=True)
                    if job.ended or job.state == "paused":
                        return job
                    if lane is None and HomeLock.read(self._settings.home_path) is None and lock():
                        lane = self._made(only=job.id)
                        await lane.start()
                    await asyncio.sleep(LOOK_S)
            finally:
                if lane is not None:
                    await lane.close(0)

    def _made(self, only: str | None = None) -> InProcess:
        return InProcess(
            self._folder,
            Claims(self._registry.database),
            self._registry.data_version,
            self._works,
            max_running=self._settings.max_model_jobs,
            max_per_tenant=self._settings.max_tenant_jobs,
            only=only,
        )

    async def _pull(self, job: Job, reporter: Reporter, succeed: Succeed) -> None:
        recipe = msgspec.convert(job.recipe, PullRecipe)
        await self._catalog.pull(
            job.tenant,
            recipe.repo,
            name=recipe.name,
            task=recipe.task,
            token=await asyncio.to_thread(tokens.get, self._folder, job.id),
            keep=partial(self._is_kept, job),
            endpoint=recipe.endpoint,
            heard=partial(_downloaded, reporter),
            beside=succeed,
            log=reporter.log,
        )

    def _is_kept(self, job: Job) -> bool:
        return KEEP in self._rows.get(job.tenant, job.id).metadata


def _downloaded(reporter: Reporter, told: PullProgress) -> None:
    share = told.done_bytes / told.total_bytes if told.total_bytes else 1.0
    text = f"{told.file}: {told.done_bytes:,} of {told.total_bytes:,} bytes of all files"
    reporter.progress(text, "download", share, msgspec.to_builtins(told))
