"""Jobs that bring and change models: queued at once, done by the server or by who waits for them.

What they do is the catalog's; how they are claimed and followed is `lmaas.jobs`.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from lmaas.config import Settings
from lmaas.errors import FULL, StorageFull
from lmaas.hub.api import check_token
from lmaas.hub.pull import check_task
from lmaas.hub.repo import default_name, parse_ref
from lmaas.job import Job, JobKind, StoredEvent
from lmaas.jobs.claims import Claims
from lmaas.jobs.in_process import InProcess, Reporter, Succeed, Work
from lmaas.jobs.inputs import TOKEN
from lmaas.jobs.store import WAITING, Jobs
from lmaas.placement import left
from lmaas.registry.lock import HomeLock, alone
from lmaas.registry.names import check_name
from lmaas.registry.store import Registry
from lmaas.service.catalog import Catalog, check_push
from lmaas.service.compressor import Compressor, check_compressible
from lmaas.service.jobs import JobQueue
from lmaas.service.quota import Quota
from lmaas.supervision import Supervisor
from lmaas.types import (
    CompressOptions,
    CompressSample,
    ModelVersion,
    Progress,
    PullBody,
    PullProgress,
    PushOptions,
    Record,
    Variant,
)

KEEP: Final = "keep_download"
"""The note of a pull whose downloaded files stay."""
TEXT: Final = "text"
SAMPLES: Final = "samples"
OPTIONS: Final = "options"
FILES: Final = "files"
SAMPLE: Final = "sample"
IMPORTING: Final = "compiling and checking"
RUNNER_SUFFIX: Final = ".runner"
LOOK_S: Final = 0.1
PAGE: Final = 1000


class PullRecipe(Record, frozen=True, kw_only=True):
    """What a pull's row says. `endpoint` is another hub than the server's own."""

    repo: str
    name: str
    task: str | None = None
    endpoint: str | None = None


class CompressRecipe(Record, frozen=True, kw_only=True):
    """What a compression's row says; what to measure on lies beside it, as it may be long."""

    model: str
    options: CompressOptions
    text_sha256: str | None = None
    samples_sha256: str | None = None


class ImportRecipe(Record, frozen=True, kw_only=True):
    """What an import's row says. An uploaded file is named as it lies among the job's inputs.

    `options` lie there too, since a description may be long.
    """

    path: str
    sample: str | None = None
    uploaded: bool


class ModelJobs:
    """Pulls, imports and compressions of one home."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        rows: Jobs,
        queue: JobQueue,
        catalog: Catalog,
        compressor: Compressor,
        quota: Quota,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._rows = rows
        self._queue = queue
        self._catalog = catalog
        self._compressor = compressor
        self._quota = quota
        self._folder = queue.folder
        self._inputs = queue.inputs
        self._lane: InProcess | None = None
        self._works: dict[JobKind, Work] = {
            "pull": self._pull,
            "import": self._import,
            "compress": self._compress,
        }

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Begin to run the queue's jobs. Only for who holds the home's lock."""
        self._lane = self._made()
        await self._lane.start(supervisor)
        # Only now: jobs that were being cancelled when a server died are cancelled as it starts.
        await asyncio.to_thread(self._inputs.tidy, self._rows.unfinished)

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
        check_token(body.token)
        recipe = PullRecipe(repo=body.repo, name=name, task=body.task, endpoint=endpoint)

        def keep_token(job_id: str) -> None:
            if body.token is not None:
                self._inputs.put(job_id, TOKEN, body.token)

        return self._add(
            tenant,
            key_id,
            "pull",
            name,
            msgspec.to_builtins(recipe),
            metadata={KEEP: "true"} if keep else {},
            joins=True,
            keep=keep_token,
        )

    def compress(self, tenant: str, ref: str, options: CompressOptions, *, key_id: str = "") -> Job:
        """Queue the making of a smaller variant; see `Compressor.compress`.

        The model is what its reference names now; a job for the same that has not ended is the one
        that is returned. Raises InvalidInput, ModelNotFound, QueueFull.
        """
        version = self._registry.resolve(tenant, ref)
        check_compressible(version, options)
        text = options.text
        samples = msgspec.json.encode(options.samples).decode() if options.samples else None
        recipe = CompressRecipe(
            model=version.ref,
            options=msgspec.structs.replace(options, text=None, samples=()),
            text_sha256=_digest(text),
            samples_sha256=_digest(samples),
        )

        def keep_data(job_id: str) -> None:
            for name, data in ((TEXT, text), (SAMPLES, samples)):
                if data is not None:
                    self._inputs.put(job_id, name, data)

        return self._add(
            tenant,
            key_id,
            "compress",
            version.name,
            msgspec.to_builtins(recipe),
            joins=True,
            keep=keep_data,
        )

    def push(
        self,
        tenant: str,
        path: Path,
        options: PushOptions | None,
        *,
        key_id: str = "",
        uploaded: bool = False,
    ) -> Job:
        """Queue the import of a model's files; see `Catalog.push`.

        What was `uploaded` is moved from `path`, and the sample from where it lies, to the job's
        inputs; other paths stay, and are this machine's. Raises InvalidInput, QueueFull, and
        InsufficientQuota where what waits would take too much of the tenant's disk.
        """
        check_push(path, options)
        sample = None if options is None or options.sample is None else Path(options.sample)
        if uploaded:
            self._check_waiting(tenant, path)
        recipe = ImportRecipe(
            path=path.name if uploaded else str(path.absolute()),
            sample=None if sample is None else sample.name if uploaded else str(sample.absolute()),
            uploaded=uploaded,
        )

        def keep(job_id: str) -> None:
            told = None if options is None else msgspec.structs.replace(options, sample=None)
            self._inputs.put(job_id, OPTIONS, msgspec.json.encode(told).decode())
            if uploaded:
                self._take(job_id, FILES, path)
                if sample is not None:
                    self._take(job_id, SAMPLE, sample)

        return self._add(
            tenant,
            key_id,
            "import",
            path.name if options is None else options.name,
            msgspec.to_builtins(recipe),
            keep=keep,
        )

    def _add(
        self,
        tenant: str,
        key_id: str,
        kind: JobKind,
        name: str,
        recipe: dict[str, Any],
        *,
        keep: Callable[[str], None],
        joins: bool = False,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> Job:
        """A job in the queue, with the inputs that `keep` writes; both or neither.

        Raises StorageFull, and what `Jobs.add` raises.
        """
        made: list[str] = []

        def beside(job_id: str) -> None:
            if not self._inputs.place(job_id).exists():
                made.append(job_id)
            keep(job_id)

        try:
            return self._rows.add(
                tenant, key_id, kind, name, recipe, joins=joins, metadata=metadata, beside=beside
            )
        except BaseException as error:
            for job_id in made:
                self._inputs.drop(job_id)
            if isinstance(error, OSError) and error.errno in FULL:
                raise StorageFull(
                    f"No space left for what comes with the job: {error.strerror}.",
                    hint="Free space on the device of LMAAS_HOME and try again.",
                ) from error
            raise

    def _take(self, job_id: str, place: str, path: Path) -> None:
        target = self._inputs.make(job_id) / place
        # The child is nobody's user, and is given this folder but not the one around it.
        target.mkdir(mode=0o755)
        path.rename(target / path.name)

    def _check_waiting(self, tenant: str, path: Path) -> None:
        """Other imports of the tenant that wait or run take disk too."""
        waiting = [job for state in WAITING for job in self._rows.every(tenant, state, "import")]
        places = [self._inputs.place(job.id) for job in waiting]
        more = left.size(path) if path.is_dir() else path.stat().st_size
        self._quota.check(tenant, more + sum(map(left.size, places)))

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
            self._registry.database.watch("jobs"),
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
            token=await asyncio.to_thread(self._inputs.get, job.id, TOKEN),
            keep=partial(self._is_kept, job),
            endpoint=recipe.endpoint,
            heard=partial(_downloaded, reporter),
            beside=succeed,
            log=reporter.log,
        )

    async def _import(self, job: Job, reporter: Reporter, succeed: Succeed) -> None:
        recipe = msgspec.convert(job.recipe, ImportRecipe)
        place = self._inputs.place(job.id)
        told = await asyncio.to_thread(self._inputs.get, job.id, OPTIONS)
        options = msgspec.json.decode(told or "null", type=PushOptions | None)
        path, sample = Path(recipe.path), recipe.sample
        if recipe.uploaded:
            path = place / FILES / path
            sample = None if sample is None else str(place / SAMPLE / sample)
        if options is not None:
            options = msgspec.structs.replace(options, sample=sample)
        reporter.progress(
            f"Compiling and checking {path.name}.", IMPORTING, 0, {"stage": IMPORTING, "done": 0}
        )
        await self._catalog.push(job.tenant, path, options, beside=succeed, log=reporter.log)

    async def _compress(self, job: Job, reporter: Reporter, succeed: Succeed) -> None:
        recipe = msgspec.convert(job.recipe, CompressRecipe)
        text = await asyncio.to_thread(self._inputs.get, job.id, TEXT)
        told = await asyncio.to_thread(self._inputs.get, job.id, SAMPLES)
        samples = msgspec.json.decode(told or "[]", type=tuple[CompressSample, ...])
        await self._compressor.compress(
            job.tenant,
            recipe.model,
            msgspec.structs.replace(recipe.options, text=text, samples=samples),
            partial(_compressed, reporter),
            beside=succeed,
            log=reporter.log,
        )

    def _is_kept(self, job: Job) -> bool:
        return KEEP in self._rows.get(job.tenant, job.id).metadata


def _digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def variant_of(job: Job, version: ModelVersion) -> Variant:
    """What a compression has made."""
    made = msgspec.convert(job.recipe, CompressRecipe).options.to
    return next(variant for variant in version.variants if variant.name == made)


def _compressed(reporter: Reporter, told: Progress) -> None:
    text = f"{told.stage}: {told.done:.0%}"
    reporter.progress(text, told.stage, told.done, msgspec.to_builtins(told))


def _downloaded(reporter: Reporter, told: PullProgress) -> None:
    share = told.done_bytes / told.total_bytes if told.total_bytes else 1.0
    text = f"{told.file}: {told.done_bytes:,} of {told.total_bytes:,} bytes of all files"
    reporter.progress(text, "download", share, msgspec.to_builtins(told))
