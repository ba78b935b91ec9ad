"""Where a command's call goes: the server it names, this home's live server, or this home."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmaas.accounts.records import NO_LIMITS
from lmaas.cli.output import service_of
from lmaas.errors import InvalidInput, Unavailable
from lmaas.types import PipelineBody

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from lmaas.accounts.records import Limits, ModelPrice, Price, UsageReport
    from lmaas.client import Client
    from lmaas.job import Job, JobKind, JobState, StoredEvent
    from lmaas.service import Service
    from lmaas.types import ConnectBody, KeyRecord, ModelVersion, Scope

KEY_NAME = "lmaas command line"
"""The name of keys that live as long as one command; `lmaas keys list` hides revoked keys."""


@contextmanager
def server_or_none(flags: dict[str, Any]) -> "Iterator[Client | None]":
    """A client of the server to talk to; None when none is named and none of this home lives.

    Whoever can write the home can make keys in it, so its own server needs none to be given:
    the command makes one and revokes it at its end.
    """
    from lmaas.client import Client
    from lmaas.config import load_settings
    from lmaas.registry.lock import HomeLock
    from lmaas.types import TENANT

    settings = load_settings(flags)
    live = HomeLock.read(settings.home_path) or {}
    url = settings.url or live.get("url")
    if url is None:
        yield None
    elif settings.url or settings.key:
        with Client(url, settings.key) as client:
            yield client
    else:
        with service_of(flags) as service:
            record, key = service.create_key(TENANT, KEY_NAME, ("admin", "call"))
            try:
                with Client(url, key) as client:
                    yield client
            finally:
                service.revoke_key(TENANT, record.id)


@contextmanager
def server_of(flags: dict[str, Any]) -> "Iterator[Client]":
    """A client of the server to talk to. Raises Unavailable when there is none."""
    with server_or_none(flags) as client:
        if client is None:
            raise Unavailable(
                "This home has no running server.",
                hint="Start a server with `lmaas serve`, or name one with --url.",
            )
        yield client


class Home:
    """What an operator does, done on this machine's home: the verbs that `Client` has too."""

    def __init__(self, service: "Service", tenant: str) -> None:
        self._service = service
        self._tenant = tenant

    def catalog(self) -> "list[ModelVersion]":
        """The latest version of every model."""
        return self._service.catalog.latest(self._tenant)

    def model(self, ref: str) -> "ModelVersion":
        """One version."""
        return self._service.catalog.get(self._tenant, ref)

    def versions(self, name: str) -> "list[ModelVersion]":
        """All versions of a model."""
        return self._service.catalog.versions(self._tenant, name)

    def connect_upstream(self, body: "ConnectBody") -> "ModelVersion":
        """Serve a model that another service runs."""
        return asyncio.run(self._service.catalog.connect(self._tenant, body))

    def make_pipeline(
        self, name: str, *, task: str, parts: "Mapping[str, str]", card: str = ""
    ) -> "ModelVersion":
        """Make a model of several."""
        body = PipelineBody(name=name, task=task, parts=dict(parts), card=card)
        return asyncio.run(self._service.pipelines.make(self._tenant, body))

    def set_alias(self, name: str, alias: str, version: int) -> "ModelVersion":
        """Point an alias at a version."""
        return self._service.catalog.set_alias(self._tenant, name, alias, version)

    def remove(self, ref: str, *, force: bool = False) -> "list[ModelVersion]":
        """Remove a version or a model."""
        return self._service.catalog.remove(self._tenant, ref, force=force)

    def list_keys(self) -> "list[KeyRecord]":
        """All keys."""
        return self._service.list_keys(self._tenant)

    def create_key(
        self, name: str, scopes: "Sequence[Scope]", limits: "Limits" = NO_LIMITS
    ) -> "tuple[KeyRecord, str]":
        """Make a key."""
        return self._service.create_key(self._tenant, name, scopes, limits)

    def limits(self, key_id: str | None = None) -> "Limits":
        """The limits of a key, or of all keys together."""
        return self._service.limits(self._tenant, key_id)

    def set_limits(self, key_id: str | None, limits: "Limits") -> "Limits":
        """Replace limits."""
        return self._service.set_limits(self._tenant, key_id, limits)

    def prices(self) -> "list[ModelPrice]":
        """What the models cost."""
        return self._service.prices(self._tenant)

    def set_price(self, model: str, price: "Price") -> "ModelPrice":
        """Set what a model costs."""
        return self._service.set_price(self._tenant, model, price)

    def usage(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        by: "Sequence[str]" = (),
        key_id: str | None = None,
    ) -> "UsageReport":
        """What was used."""
        return asyncio.run(
            self._service.usage(self._tenant, start=start, end=end, by=by, key_id=key_id)
        )

    def jobs(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        state: "JobState | None" = None,
        kind: "JobKind | None" = None,
    ) -> "list[Job]":
        """Jobs, newest first."""
        return self._service.jobs.page(
            self._tenant, after=after, limit=limit, state=state, kind=kind
        )

    def job(self, job_id: str) -> "Job":
        """One job."""
        return self._service.jobs.get(self._tenant, job_id)

    def cancel_job(self, job_id: str) -> "Job":
        """End a job."""
        return self._service.jobs.cancel(self._tenant, job_id)

    def pause_job(self, job_id: str) -> "Job":
        """Hold a job."""
        return self._service.jobs.pause(self._tenant, job_id)

    def resume_job(self, job_id: str) -> "Job":
        """Queue a paused job again."""
        return self._service.jobs.resume(self._tenant, job_id)

    def job_events(self, job_id: str, *, after: int = 0, limit: int = 100) -> "list[StoredEvent]":
        """A job's events."""
        return self._service.jobs.events(self._tenant, job_id, after=after, limit=limit)

    def job_log(self, job_id: str) -> str:
        """What a job's process has printed."""
        return asyncio.run(self._service.jobs.log(self._tenant, job_id))

    def follow_job(self, job_id: str, *, after: int = 0) -> "Generator[StoredEvent, None, None]":
        """A job's events as they come."""
        coming = self._service.jobs.follow(self._tenant, job_id, after=after)

        async def following() -> "StoredEvent | None":
            return await anext(coming, None)

        with asyncio.Runner() as runner:
            while (event := runner.run(following())) is not None:
                yield event

    def revoke_key(self, key_id: str) -> "KeyRecord":
        """End a key."""
        return self._service.revoke_key(self._tenant, key_id)


@contextmanager
def operator_of(flags: dict[str, Any], tenant: str | None = None) -> "Iterator[Client | Home]":
    """Who does an operator's work: the server that is named, else this home itself.

    Raises InvalidInput for a `tenant` where a server is named: there, a key acts for its own.
    """
    from lmaas.client import Client
    from lmaas.config import load_settings
    from lmaas.types import TENANT

    settings = load_settings(flags)
    if settings.url is not None:
        if tenant is not None:
            raise InvalidInput(
                "--tenant is not for --url: over HTTP, a key acts for its own tenant.",
                hint="Run it on the server's machine, in its home.",
                param="tenant",
            )
        with Client(settings.url, settings.key) as client:
            yield client
    else:
        with service_of(flags) as service:
            yield Home(service, TENANT if tenant is None else tenant)
