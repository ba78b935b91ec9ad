"""One home: its life, workers, keys and accounts. Calls of its models are `service.calls`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, ParamSpec, TypeVar

import msgspec

from lmaas.accounts import usage
from lmaas.accounts.keys import Keys
from lmaas.accounts.ledger import Ledger
from lmaas.accounts.limits_store import LimitsStore
from lmaas.accounts.records import NO_LIMITS, Limits, ModelPrice, Price, UsageReport
from lmaas.accounts.sessions import Sessions
from lmaas.aside import Aside
from lmaas.config import Settings
from lmaas.errors import (
    ConfigError,
    NotFound,
)
from lmaas.hub.leftovers import leftovers
from lmaas.jobs.artifacts import Artifacts
from lmaas.jobs.delivery import Deliverer
from lmaas.jobs.store import Jobs
from lmaas.jobs.webhooks import Webhooks
from lmaas.placement.local import LocalPlacement
from lmaas.placement.probe import missing
from lmaas.registry.data_files import Files
from lmaas.registry.fsck import FsckReport
from lmaas.registry.names import check_name
from lmaas.registry.responses import Responses
from lmaas.registry.store import Registry
from lmaas.service.calls import ModelCalls
from lmaas.service.catalog import Catalog
from lmaas.service.compressor import Compressor
from lmaas.service.data import DataFiles
from lmaas.service.jobs import JobQueue
from lmaas.service.model_jobs import ModelJobs
from lmaas.service.pipelines import Pipelines
from lmaas.service.quota import Quota
from lmaas.service.workshop import Workshop
from lmaas.serving.cache import ResponseCache
from lmaas.serving.egress import EgressPolicy
from lmaas.serving.image_urls import ImageUrls
from lmaas.serving.metrics import Metrics
from lmaas.serving.pool import Pool
from lmaas.serving.router import Router
from lmaas.supervision import Supervisor
from lmaas.types import (
    KeyRecord,
    ModelVersion,
    Scope,
    WorkerStatus,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

JOBS_FOLDER: Final = "jobs"


class Service:
    """One LMaaS home and everything that can be done with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home_path
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.registry = Registry(self.home)
        self.keys = Keys(self.registry)
        self.limits_store = LimitsStore(self.registry.database)
        self.supervisor = Supervisor()
        self.ledger = Ledger(self.registry, self.supervisor)
        self.sessions = Sessions(settings.max_sessions)
        self.responses = Responses(self.registry.database)
        self.metrics = Metrics(self.supervisor.failures)
        placement = LocalPlacement(self.home)
        self.pool = Pool(settings, self.registry, self.metrics, self.supervisor, placement)
        self.aside = Aside()
        self.router = Router(self.registry, self.pool, self.aside)
        self.cache = ResponseCache(settings.response_cache_bytes, settings.redis_url)
        self._egress = EgressPolicy(settings.webhook_allow)
        self.webhooks = Webhooks(self.registry.database, self._egress, http=settings.webhook_http)
        self._deliverer: Deliverer | None = None
        self.workshop = workshop = Workshop(settings, placement)
        queue, files = Jobs(self.registry.database), Files(self.home)
        quota = Quota(settings.tenant_disk_bytes, self.registry, files)
        self.catalog = Catalog(settings, self.registry, self.router, workshop, quota)
        self.pipelines = Pipelines(self.registry, self.router, workshop, quota, settings.variant)
        self.data = DataFiles(settings, files, queue, workshop, quota)
        self.jobs = JobQueue(
            settings,
            self.registry,
            queue,
            Artifacts(self.home / JOBS_FOLDER, files),
            self.data,
            self.catalog,
            workshop,
            placement,
        )
        self.compressor = Compressor(settings, self.registry, self.router, workshop)
        self.model_jobs = ModelJobs(
            settings, self.registry, queue, self.jobs, self.catalog, self.compressor, quota
        )
        images = ImageUrls(settings.image_hosts, EgressPolicy(settings.image_allow, "image_allow"))
        self.calls = ModelCalls(
            settings, self.find, self.router, self.pool, self.ledger, self.cache, self.metrics,
            self.aside, images,
        )  # fmt: skip

    # Life of the service

    async def check_isolation(self) -> None:
        """Tell in the log what this machine lacks to shut workers, jobs and children in.

        Raises ConfigError for it where the setting `isolation` is "required".
        """
        lacking = await asyncio.to_thread(missing)
        for name, meaning in lacking.items():
            log.warning("Isolation lacks %s: %s.", name, meaning)
        if lacking and self.settings.isolation == "required":
            raise ConfigError(
                f"This machine cannot isolate models as isolation=required asks: "
                f"{'; '.join(lacking.values())}.",
                hint="`lmaas doctor` shows it too. isolation=auto goes on without it.",
                param="isolation",
            )

    async def start(self) -> None:
        """Take the accounts and start the pool; pinned models begin to load."""
        await self.ledger.start()
        await self.pool.start()

    async def start_jobs(self) -> None:
        """Begin to run the queue's jobs and to tell of their ends.

        Only for who holds the home's lock.
        """
        self._deliverer = Deliverer(
            self.registry.database, self._egress, http=self.settings.webhook_http
        )
        self._deliverer.start(self.supervisor)
        await asyncio.to_thread(self.data.uploads.tidy)
        await asyncio.to_thread(self.workshop.tidy)
        await self.jobs.start(self.supervisor)
        await self.model_jobs.start(self.supervisor)

    async def drain(self, deadline_s: float) -> None:
        """Let running requests finish for at most `deadline_s`, then stop every worker.

        Running jobs write a checkpoint and are queued again.
        """
        try:
            await asyncio.gather(
                self.pool.close(deadline_s),
                self.jobs.close(deadline_s),
                self.model_jobs.close(deadline_s),
            )
            await self.cache.close()
        finally:
            if self._deliverer is not None:
                await self._deliverer.close()
            await self.ledger.close()

    def ready(self) -> bool:
        """Whether new requests are accepted and every loaded model has a live worker."""
        return self.pool.ready()

    def close(self) -> None:
        """Write what waits, and release the database."""
        self.aside.close()
        self.workshop.close()
        self.responses.close()
        self.registry.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        """The service with its pool, for use without a server."""
        await self.start()
        try:
            yield self
        finally:
            await self.drain(self.settings.drain_timeout_s)

    # What doors ask of the database and of files, beside the event loop

    async def read(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `ask`, which only reads, says."""
        return await self.aside.read(ask, *args, **kwargs)

    async def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `change` says, once it is done."""
        return await self.aside.write(change, *args, **kwargs)

    async def find(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `name`, `name:3` or `name@alias` refers to. Raises ModelNotFound.

        What a checkpoint of a job is called becomes a model first.
        """
        await self.jobs.checkpoints.ensure(tenant, ref)
        return await self.router.find(tenant, ref)

    # Workers

    def ps(self, tenant: str) -> list[WorkerStatus]:
        """The workers that hold models of `tenant`."""
        return [status for status in self.pool.status() if status.tenant == tenant]

    async def load_model(self, tenant: str, ref: str) -> ModelVersion:
        """Load a model before its first call; a checkpoint of a job becomes one."""
        version = await self.find(tenant, ref)
        await self.pool.load(version)
        return version

    async def stop_model(self, tenant: str, ref: str) -> ModelVersion:
        """Unload a model after its running requests. Raises NotFound when it is not loaded."""
        version = await self.router.find(tenant, ref)
        if version.ref not in {status.model for status in self.ps(tenant)}:
            raise NotFound(
                f"{version.ref} is not loaded.", hint="`lmaas ps` lists the loaded models."
            )
        await self.pool.stop(tenant, version.ref)
        return version

    # Keys

    async def authenticate(self, text: str) -> KeyRecord:
        """The key that `text` is. Raises Unauthorized."""
        if not self.keys.fresh():
            await self.aside.share(("keys", self.keys.revision()), self.keys.refresh)
        return self.keys.known(text)

    async def confirm(self, key: KeyRecord) -> None:
        """Raises Unauthorized if `key` has been revoked since it was looked at."""
        if not self.keys.fresh():
            await self.aside.share(("keys", self.keys.revision()), self.keys.refresh)
        self.keys.confirm(key.id)

    def create_key(
        self, tenant: str, name: str, scopes: Sequence[Scope], limits: Limits = NO_LIMITS
    ) -> tuple[KeyRecord, str]:
        """A new key and, this one time, its text. The first key of a tenant makes the tenant."""
        check_name(tenant, what="tenant name")
        self.limits_store.check(limits)
        record, text = self.keys.create(tenant, name, tuple(scopes))
        if limits != NO_LIMITS:
            self.limits_store.set_limits(tenant, record.id, limits)
        return record, text

    def list_keys(self, tenant: str) -> list[KeyRecord]:
        """All keys of `tenant`, revoked ones too, without their secrets."""
        return self.keys.list(tenant)

    def revoke_key(self, tenant: str, key_id: str) -> KeyRecord:
        """End a key now. Raises NotFound."""
        for record in self.keys.list(tenant):
            if record.id == key_id:
                self.keys.revoke(key_id)
                return record
        raise NotFound(f"No key {key_id!r}.", hint="`lmaas keys list` shows the ids.")

    # Accounts

    def limits(self, tenant: str, key_id: str | None) -> Limits:
        """The limits of a key, or (None) of all keys of `tenant` together. Raises NotFound."""
        return self.limits_store.limits(tenant, key_id)

    def set_limits(self, tenant: str, key_id: str | None, limits: Limits) -> Limits:
        """Replace the limits of a key, or (None) of all keys of `tenant` together."""
        return self.limits_store.set_limits(tenant, key_id, limits)

    def prices(self, tenant: str) -> list[ModelPrice]:
        """What the models of `tenant` cost, by name."""
        return self.limits_store.prices(tenant)

    def set_price(self, tenant: str, model: str, price: Price) -> ModelPrice:
        """What all versions of a model cost from now on; a price of 0 makes it free."""
        return self.limits_store.set_price(tenant, model, price)

    async def usage(
        self,
        tenant: str,
        *,
        start: str | None = None,
        end: str | None = None,
        by: Sequence[str] = (),
        key_id: str | None = None,
    ) -> UsageReport:
        """What was used from day `start` to day `end` (UTC), by any of key, model and day.

        In the server, up to the last request; in another process, up to a few seconds ago.
        """

        def ask() -> UsageReport:
            self.ledger.flush()
            database = self.registry.database
            return usage.report(database, tenant, start=start, end=end, by=by, key_id=key_id)

        return await asyncio.to_thread(ask)

    # Upkeep

    def fsck(self, *, repair: bool = False) -> FsckReport:
        """Check every stored file against its digest and every row against its files.

        With `repair`, what no version names and no pull is at is deleted.
        """
        report = self.registry.check(repair=repair)
        downloads = leftovers(self.home, remove=repair)
        return msgspec.structs.replace(report, downloads=downloads)
