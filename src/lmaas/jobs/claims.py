"""The runner's side of the queue: claims with leases and fences, and what is written under them.

A runner claims a job by one conditional update and gets a lease and a fence. Every later write of
it carries the fence; once a requeue, another claim or an end has raised it, the write changes
nothing and `LeaseLost` is raised. Synchronous and thread-safe.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from lmaas.job import ENDED, KINDS, Job, JobError, JobEvent, JobKind, JobState
from lmaas.jobs.rows import job_of, message, put, tell, text
from lmaas.jobs.webhook_outbox import announce
from lmaas.registry.schema import job_checkpoints, jobs
from lmaas.registry.storage import Storage, claim_row

LEASE_S = 15.0


class LeaseLost(Exception):
    """The writer's fence is stale: the job has another owner, or none, or has ended."""


class Claim(NamedTuple):
    """The right to write about a running job."""

    job: str
    fence: int


class Heard(NamedTuple):
    """What a runner reads back: what is wanted, where the told events end, crashes since then."""

    wanted: str | None
    offset: int
    crashes: int


class Claims:
    """What the runner of one home writes."""

    def __init__(self, database: Storage) -> None:
        self._database = database

    def claim(
        self,
        owner: str,
        per_tenant: int,
        *,
        kinds: Sequence[JobKind] = KINDS,
        only: str | None = None,
    ) -> tuple[Claim, Job] | None:
        """Take the next job: highest priority, then oldest, of a tenant that has room.

        Of some kinds, among which a tenant's bound counts; or `only` this job.
        """
        now = time.time()
        other = jobs.alias()
        running = (
            sa.select(sa.func.count())
            .select_from(other)
            .where(
                other.c.tenant == jobs.c.tenant, other.c.state == "running", other.c.kind.in_(kinds)
            )
            .scalar_subquery()
        )
        first = (
            sa.select(jobs.c.id)
            .where(jobs.c.state == "queued", running < per_tenant, _among(kinds, only))
            .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
            .limit(1)
        )
        taken = {
            "state": "running",
            "wanted": None,
            "lease_owner": owner,
            "lease_until": now + LEASE_S,
            "fence": jobs.c.fence + 1,
            "attempts": jobs.c.attempts + 1,
            "started_at": sa.func.coalesce(jobs.c.started_at, now),
        }
        with self._database.read() as connection:
            if connection.scalar(first) is None:
                return None
        with self._database.write() as connection:
            row = claim_row(connection, jobs, first, taken)
            if row is None:
                return None
            again = f", attempt {row.attempts}" if row.attempts > 1 else ""
            tell(connection, row.id, message(f"The job runs{again}."))
        return Claim(row.id, row.fence), job_of(row)

    def renew(self, claims: Sequence[Claim]) -> list[Claim]:
        """Keep these jobs for another lease; those that are lost."""
        lost: list[Claim] = []
        with self._database.write() as connection:
            for claim in claims:
                kept = connection.execute(
                    jobs.update().where(_held(claim)).values(lease_until=time.time() + LEASE_S)
                )
                if not kept.rowcount:
                    lost.append(claim)
        return lost

    def requeue(
        self,
        *,
        all_of_others: str | None = None,
        kinds: Sequence[JobKind] = KINDS,
        only: str | None = None,
    ) -> list[str]:
        """Put running jobs whose lease ran out back into the queue; their ids.

        `all_of_others` names an owner beside whom nobody can live: it is at the start of the
        server that holds the home's lock, and needs not wait for the leases of a dead one.
        """
        stale = jobs.c.lease_until < time.time()
        if all_of_others is not None:
            stale = jobs.c.lease_owner != all_of_others
        stale &= _among(kinds, only)
        with self._database.read() as connection:
            if (
                connection.scalar(sa.select(jobs.c.id).where(jobs.c.state == "running", stale))
                is None
            ):
                return []
        with self._database.write() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.state == "running", stale)).all()
            for row in rows:
                state = {"pause": "paused", "cancel": "cancelled"}.get(row.wanted, "queued")
                _end_claim(connection, row, state)
                if row.kind != "train":
                    # Training counts for itself: its process may go on without a server's fault.
                    put(connection, row.id, crashes=row.crashes + 1)
                told = f"The server went away; the job is {state}."
                tell(connection, row.id, message(told, level="warn"))
        return [row.id for row in rows]

    def write(
        self, claim: Claim, events: Sequence[JobEvent] = (), *, offset: int | None = None
    ) -> Heard:
        """Add events and what follows from them, and where they ended in the events' file.

        One transaction. Raises LeaseLost.
        """
        if not events and offset is None:
            with self._database.read() as connection:
                return _heard(connection, claim)
        with self._database.write() as connection:
            before = _heard(connection, claim)
            for event in events:
                tell(connection, claim.job, event)
            values = _consequences(connection, claim.job, events)
            if offset is not None:
                values["events_offset"] = offset
            if values:
                put(connection, claim.job, **values)
            return before._replace(
                offset=before.offset if offset is None else offset,
                crashes=values.get("crashes", before.crashes),
            )

    def release(
        self, claim: Claim, state: JobState, event: JobEvent, *, crashed: bool = False
    ) -> None:
        """Give a job back as "queued", "paused" or "cancelled". Raises LeaseLost."""
        assert state in ("queued", "paused", "cancelled")
        with self._database.write() as connection:
            row = _claimed(connection, claim)
            if row.wanted == "cancel":
                state = "cancelled"
            elif row.wanted == "pause" and state == "queued":
                state = "paused"
            _end_claim(connection, row, state)
            if crashed:
                put(connection, claim.job, crashes=row.crashes + 1)
            tell(connection, claim.job, event)

    def fail(self, claim: Claim, error: JobError) -> None:
        """End a job that failed. Raises LeaseLost."""
        event = JobEvent(
            type="error",
            level="error",
            message=error.message,
            created_at=time.time(),
            data=msgspec.to_builtins(error),
        )
        with self._database.write() as connection:
            row = _claimed(connection, claim)
            if row.wanted == "cancel":
                _end_claim(connection, row, "cancelled")
                tell(connection, claim.job, message("The job is cancelled."))
                return
            _end_claim(connection, row, "failed")
            put(connection, claim.job, error=text(error))
            tell(connection, claim.job, event)

    def succeed(
        self,
        connection: sa.Connection,
        claim: Claim,
        model: str,
        events: Sequence[JobEvent] = (),
        *,
        made: str = "The model is registered as",
    ) -> None:
        """End a job whose result becomes `model` in this very transaction; `events` come before.

        Raises LeaseLost, so that nothing is registered: also when the job was cancelled.
        """
        row = _claimed(connection, claim)
        if row.wanted == "cancel":
            raise LeaseLost(claim.job)
        for event in events:
            tell(connection, claim.job, event)
        _end_claim(connection, row, "succeeded")
        put(connection, claim.job, model=model, **_consequences(connection, claim.job, events))
        tell(connection, claim.job, message(f"{made} {model}."))


def _consequences(
    connection: sa.Connection, job_id: str, events: Sequence[JobEvent]
) -> dict[str, Any]:
    """What events say of the job itself: its newest numbers, its recipe, its checkpoints."""
    values: dict[str, Any] = {}
    kinds = ("metrics", "checkpoint", "resolved")
    told = [event for event in events if event.type in kinds or "measured" in event.data]
    if not told:
        return values
    row = connection.execute(sa.select(jobs.c.progress).where(jobs.c.id == job_id)).one()
    progress = dict(msgspec.json.decode(row.progress))
    for event in told:
        if event.type == "metrics":
            # What is there already is reported again by each attempt.
            if event.data.get("done_bytes", 0) > progress.get("done_bytes", 0):
                values["crashes"] = 0
            progress |= event.data
        elif "measured" in event.data:
            progress |= event.data["measured"]
        elif event.type == "resolved":
            values["resolved"] = text(event.data["recipe"])
        else:
            if _checkpoint(connection, job_id, event, progress):
                values["crashes"] = 0
    values["progress"] = text(progress)
    return values


def _checkpoint(
    connection: sa.Connection, job_id: str, event: JobEvent, progress: dict[str, Any]
) -> bool:
    """Note a checkpoint; whether it is further than all before."""
    step = int(event.data["step"])
    mine = job_checkpoints.c.job == job_id
    last = connection.scalar(sa.select(sa.func.max(job_checkpoints.c.step)).where(mine))
    connection.execute(job_checkpoints.delete().where(mine, job_checkpoints.c.step == step))
    numbers = {
        name: float(value)
        for name, value in progress.items()
        if name.startswith(("valid_", "train_")) and isinstance(value, int | float)
    }
    connection.execute(
        job_checkpoints.insert().values(
            id=f"ftckpt-{secrets.token_hex(12)}",
            job=job_id,
            step=step,
            metrics=text(numbers),
            created_at=event.created_at,
        )
    )
    return last is None or step > last


def _among(kinds: Sequence[JobKind], only: str | None) -> sa.ColumnElement[bool]:
    return jobs.c.kind.in_(kinds) if only is None else jobs.c.id == only


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(jobs.c.id == claim.job, jobs.c.fence == claim.fence, jobs.c.state == "running")


def _claimed(connection: sa.Connection, claim: Claim) -> Any:
    row = connection.execute(sa.select(jobs).where(_held(claim))).first()
    if row is None:
        raise LeaseLost(claim.job)
    return row


def _heard(connection: sa.Connection, claim: Claim) -> Heard:
    row = _claimed(connection, claim)
    return Heard(row.wanted, row.events_offset, row.crashes)


def _end_claim(connection: sa.Connection, row: Any, state: str) -> None:
    put(
        connection,
        row.id,
        state=state,
        wanted=None,
        lease_owner=None,
        lease_until=None,
        fence=row.fence + 1,
        finished_at=time.time() if state in ENDED else None,
    )
    if state in ENDED:
        announce(connection, row, state)
