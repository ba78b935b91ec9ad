"""Rows of jobs and events as records, and the small writes that every transition is made of."""

import time
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from lmaas.errors import InvalidInput, NotFound
from lmaas.job import Job, JobError, JobEvent, StoredEvent
from lmaas.registry.schema import job_events, jobs
from lmaas.registry.storage import next_number

MAX_PAGE = 1000


def put(connection: sa.Connection, job_id: str, **values: Any) -> None:
    """Change columns of a job."""
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values))


def tell(connection: sa.Connection, job_id: str, event: JobEvent) -> None:
    """Add an event with the next number."""
    connection.execute(
        job_events.insert().values(
            job=job_id,
            seq=next_number(connection, jobs.c.last_event, jobs.c.id == job_id),
            created_at=event.created_at,
            level=event.level,
            type=event.type,
            message=event.message,
            data=text(event.data),
        )
    )


def message(told: str, *, level: Literal["info", "warn", "error"] = "info") -> JobEvent:
    """An event that only says something, now."""
    return JobEvent(type="message", level=level, message=told, created_at=time.time())


def row_of(connection: sa.Connection, tenant: str, job_id: str) -> Any:
    """A tenant's job. Raises NotFound."""
    row = connection.execute(
        sa.select(jobs).where(jobs.c.id == job_id, jobs.c.tenant == tenant)
    ).first()
    if row is None:
        raise NotFound(
            f"There is no job {job_id[:100]!r}.",
            hint="`lmaas jobs list` shows what there is.",
            param="job",
        )
    return row


def job_of(row: Any) -> Job:
    """A row of `jobs` as a record, without its checkpoints."""
    return Job(
        id=row.id,
        tenant=row.tenant,
        key_id=row.key_id,
        kind=row.kind,
        name=row.name,
        state=row.state,
        wanted=row.wanted,
        priority=row.priority,
        recipe=msgspec.json.decode(row.recipe),
        metadata=msgspec.json.decode(row.metadata),
        resolved=None if row.resolved is None else msgspec.json.decode(row.resolved),
        error=None if row.error is None else msgspec.json.decode(row.error, type=JobError),
        model=row.model,
        progress=msgspec.json.decode(row.progress),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempts=row.attempts,
    )


def event_of(row: Any) -> StoredEvent:
    """A row of `job_events` as a record."""
    return StoredEvent(
        seq=row.seq,
        type=row.type,
        level=row.level,
        message=row.message,
        created_at=row.created_at,
        data=msgspec.json.decode(row.data),
    )


def check_limit(limit: int) -> None:
    """Refuse a page of a size that is not served."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is from 1 to {MAX_PAGE}; received {limit}.", param="limit")


def text(value: object) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()
