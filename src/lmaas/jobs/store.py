"""The queue of jobs as its users see it: add, read, and ask for what a running job is to do.

Knows rows and transitions in SQL, no process; `lmaas.jobs.claims` is the runner's side.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import sqlalchemy as sa

from lmaas.errors import Conflict, InvalidInput, QueueFull
from lmaas.job import (
    ENDED,
    Job,
    JobCheckpoint,
    JobKind,
    JobState,
    StoredEvent,
    checkpoint_model,
)
from lmaas.jobs.rows import check_limit, event_of, job_of, message, put, row_of, tell, text
from lmaas.jobs.webhook_outbox import announce
from lmaas.registry.schema import job_checkpoints, job_events, jobs
from lmaas.registry.storage import Storage

MAX_PRIORITY = 100
MAX_WAITING = 1000
"""So many jobs of one tenant may wait and run."""
RETRY_AFTER_S = 60
PAUSABLE: tuple[JobKind, ...] = ("train", "pull")
"""Kinds that go on from where they were."""
WAITING: tuple[JobState, ...] = ("queued", "running")


class Jobs:
    """The queue of one home. Synchronous and thread-safe."""

    def __init__(self, database: Storage) -> None:
        self._database = database

    def add(
        self,
        tenant: str,
        key_id: str,
        kind: JobKind,
        name: str,
        recipe: dict[str, Any],
        *,
        priority: int = 0,
        metadata: Mapping[str, str] = MappingProxyType({}),
        joins: bool = False,
        beside: Callable[[str], None] = lambda _: None,
    ) -> Job:
        """A new job at the end of the queue of its priority.

        Where it `joins`, an unfinished one with the same recipe is it, with more `metadata`, unless
        it is being cancelled or paused. `beside` is called with its id before anybody can see it.
        Raises InvalidInput, QueueFull.
        """
        if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            raise InvalidInput(
                f"priority is from {-MAX_PRIORITY} to {MAX_PRIORITY}; received {priority}.",
                param="priority",
            )
        prefix = "ftjob" if kind == "train" else "job"
        job_id = f"{prefix}-{secrets.token_hex(12)}"
        now = time.time()
        with self._database.write() as connection:
            waiting = sa.and_(jobs.c.tenant == tenant, jobs.c.state.in_(WAITING))
            same = (jobs.c.kind == kind, jobs.c.name == name, jobs.c.recipe == text(recipe))
            goes_on = (waiting, jobs.c.wanted.is_(None))
            row = joins and connection.execute(sa.select(jobs).where(*goes_on, *same)).first()
            if row:
                beside(row.id)
                given = {**msgspec.json.decode(row.metadata), **metadata}
                put(connection, row.id, metadata=text(given))
                return job_of(row)
            count = connection.scalar(sa.select(sa.func.count()).select_from(jobs).where(waiting))
            if int(count or 0) >= MAX_WAITING:
                raise QueueFull(
                    f"{count} jobs of this tenant wait or run already.",
                    retry_after_s=RETRY_AFTER_S,
                    hint="`lmaas jobs list --state queued` shows those that wait.",
                )
            beside(job_id)
            connection.execute(
                jobs.insert().values(
                    id=job_id,
                    tenant=tenant,
                    key_id=key_id,
                    kind=kind,
                    name=name,
                    state="queued",
                    priority=priority,
                    recipe=text(recipe),
                    metadata=text(dict(metadata)),
                    progress="{}",
                    created_at=now,
                    attempts=0,
                    crashes=0,
                    fence=0,
                    events_offset=0,
                )
            )
            tell(connection, job_id, message("The job is queued."))
        return self.get(tenant, job_id)

    def get(self, tenant: str, job_id: str) -> Job:
        """One job with its checkpoints. Raises NotFound."""
        with self._database.read() as connection:
            row = row_of(connection, tenant, job_id)
            found = connection.execute(
                sa.select(job_checkpoints)
                .where(job_checkpoints.c.job == job_id)
                .order_by(job_checkpoints.c.step)
            ).all()
        points = tuple(_point(point, row.name) for point in found)
        return msgspec.structs.replace(job_of(row), checkpoints=points)

    def checkpoint(self, tenant: str, model: str) -> tuple[Job, JobCheckpoint] | None:
        """Whose checkpoint is called `model`, if any is."""
        _, _, begins = model.rpartition(".")
        query = sa.select(jobs.c.id).where(
            jobs.c.tenant == tenant, jobs.c.id.startswith(f"ftjob-{begins}", autoescape=True)
        )
        with self._database.read() as connection:
            ids = connection.scalars(query).all()
        for job in (self.get(tenant, job_id) for job_id in ids):
            for point in job.checkpoints:
                if point.model == model:
                    return job, point
        return None

    def page(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        state: JobState | None = None,
        kind: JobKind | None = None,
    ) -> list[Job]:
        """Jobs, newest first; `after` is the id of the last one of the page before."""
        check_limit(limit)
        query = sa.select(jobs).where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self._database.read() as connection:
            if after is not None:
                last = row_of(connection, tenant, after)
                place = sa.tuple_(jobs.c.created_at, jobs.c.id)
                query = query.where(place < sa.tuple_(last.created_at, last.id))
            query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
            return [job_of(row) for row in connection.execute(query)]

    def every(self, tenant: str, state: JobState, kind: JobKind) -> list[Job]:
        """All jobs of a kind in a state, however many."""
        query = sa.select(jobs).where(
            jobs.c.tenant == tenant, jobs.c.state == state, jobs.c.kind == kind
        )
        with self._database.read() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def unfinished(self) -> set[str]:
        """The ids of all tenants' jobs that may yet go on.

        Among them are those that another process adds just now: it waits for their transactions.
        """
        query = sa.select(jobs.c.id).where(jobs.c.state.not_in(ENDED))
        with self._database.write() as connection:
            return set(connection.scalars(query))

    def events(
        self, tenant: str, job_id: str, *, after: int = 0, limit: int = 100
    ) -> list[StoredEvent]:
        """Events in order, those after number `after`. Raises NotFound."""
        check_limit(limit)
        query = (
            sa.select(job_events)
            .where(job_events.c.job == job_id, job_events.c.seq > after)
            .order_by(job_events.c.seq)
            .limit(limit)
        )
        with self._database.read() as connection:
            row_of(connection, tenant, job_id)
            rows = connection.execute(query).all()
        return [event_of(row) for row in rows]

    def last_events(
        self, tenant: str, job_id: str, limit: int, *, before: int | None = None
    ) -> list[StoredEvent]:
        """The newest `limit` events of those before number `before`, in order."""
        check_limit(limit)
        query = (
            sa.select(job_events)
            .where(job_events.c.job == job_id)
            .order_by(job_events.c.seq.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(job_events.c.seq < before)
        with self._database.read() as connection:
            row_of(connection, tenant, job_id)
            rows = connection.execute(query).all()
        return [event_of(row) for row in reversed(rows)]

    def cancel(self, tenant: str, job_id: str) -> Job:
        """End a job: at once if it waits, else as soon as its process has stopped.

        Raises Conflict for one that has ended.
        """
        with self._database.write() as connection:
            row = row_of(connection, tenant, job_id)
            if row.state in ENDED:
                raise _has_ended(row)
            if row.state == "running":
                put(connection, job_id, wanted="cancel")
                tell(connection, job_id, message("The job is being cancelled."))
            else:
                put(
                    connection,
                    job_id,
                    state="cancelled",
                    fence=row.fence + 1,
                    finished_at=time.time(),
                )
                tell(connection, job_id, message("The job is cancelled."))
                announce(connection, row, "cancelled")
        return self.get(tenant, job_id)

    def pause(self, tenant: str, job_id: str) -> Job:
        """Hold a job: at once if it waits, else at its next checkpoint, which it writes now.

        Raises Conflict for one that has ended or is being cancelled.
        """
        with self._database.write() as connection:
            row = row_of(connection, tenant, job_id)
            if row.state in ENDED:
                raise _has_ended(row)
            if row.wanted == "cancel":
                raise Conflict(f"The job {job_id} is being cancelled.", param="job")
            if row.kind not in PAUSABLE:
                raise InvalidInput(
                    f"Only training runs and pulls are paused; {job_id} is of the kind {row.kind}.",
                    hint="Cancel it, and start it again later.",
                    param="job",
                )
            if row.state == "queued":
                put(connection, job_id, state="paused")
                tell(connection, job_id, message("The job is paused."))
            elif row.state == "running" and row.wanted is None:
                put(connection, job_id, wanted="pause")
                tell(connection, job_id, message("The job is being paused."))
        return self.get(tenant, job_id)

    def resume(self, tenant: str, job_id: str) -> Job:
        """Put a paused job back into the queue, at its old place. Raises Conflict for others."""
        with self._database.write() as connection:
            row = row_of(connection, tenant, job_id)
            if row.state != "paused":
                hint = "Wait until it is paused." if row.wanted == "pause" else None
                raise Conflict(
                    f"Only a paused job is resumed; {job_id} is {row.state}.",
                    hint=hint,
                    param="job",
                )
            put(connection, job_id, state="queued", crashes=0)
            tell(connection, job_id, message("The job is queued again."))
        return self.get(tenant, job_id)


def _has_ended(row: Any) -> Conflict:
    was = "was cancelled" if row.state == "cancelled" else f"has {row.state}"
    return Conflict(f"The job {row.id} {was} already.", param="job")


def _point(row: Any, name: str) -> JobCheckpoint:
    return JobCheckpoint(
        id=row.id,
        job=row.job,
        step=row.step,
        model=checkpoint_model(name, row.job, row.step),
        metrics=msgspec.json.decode(row.metrics),
        created_at=row.created_at,
    )
