"""The queue: order, limits, leases, fences, transitions."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from lmaas.cli import cli
from lmaas.cli import jobs as job_commands
from lmaas.errors import Conflict, InvalidInput, NotFound
from lmaas.job import KINDS, Job, JobError, JobEvent
from lmaas.jobs.claims import Claim, Claims, LeaseLost
from lmaas.jobs.store import Jobs
from lmaas.registry.database import Database
from lmaas.registry.schema import jobs as rows


class Queue:
    """Both sides of one home's queue."""

    def __init__(self, home: Path) -> None:
        self.database = Database(home)
        self.jobs = Jobs(self.database)
        self.claims = Claims(self.database)

    def add(self, name: str = "a", tenant: str = "t", priority: int = 0) -> Job:
        return self.jobs.add(tenant, "key", "train", name, {"name": name}, priority=priority)

    def take(self, per_tenant: int = 9) -> Claim:
        taken = self.claims.claim("me", per_tenant)
        assert taken is not None
        return taken[0]

    def let_lease_end(self, job: str) -> None:
        with self.database.write() as connection:
            connection.execute(rows.update().where(rows.c.id == job).values(lease_until=1.0))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path)
    yield made
    made.database.close()


def event(text: str = "hello", **data: object) -> JobEvent:
    return JobEvent(type="message", message=text, created_at=time.time(), data=data)


def metrics(**data: float) -> JobEvent:
    return JobEvent(type="metrics", message="", created_at=time.time(), data=dict(data))


def checkpoint(step: int) -> JobEvent:
    data = {"step": step, "folder": "x"}
    return JobEvent(type="checkpoint", message="", created_at=time.time(), data=data)


def test_priority_comes_first_then_age(queue: Queue) -> None:
    old, new, urgent = queue.add("old"), queue.add("new"), queue.add("urgent", priority=1)
    assert [queue.take().job for _ in range(3)] == [urgent.id, old.id, new.id]
    assert queue.claims.claim("me", 9) is None


def test_a_tenant_at_its_limit_lets_others_pass(queue: Queue) -> None:
    first, _second, other = queue.add(), queue.add(), queue.add(tenant="u")
    assert queue.take(per_tenant=1).job == first.id
    assert queue.take(per_tenant=1).job == other.id
    assert queue.claims.claim("me", 1) is None
    assert queue.claims.claim("me", 2) is not None


def test_a_job_is_claimed_once_by_many(queue: Queue) -> None:
    made = {queue.add().id for _ in range(12)}
    taken: list[str] = []

    def work() -> None:
        while (got := queue.claims.claim("me", 99)) is not None:
            taken.append(got[0].job)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def test_a_stale_fence_changes_nothing(queue: Queue) -> None:
    job = queue.add()
    stale = queue.take()
    queue.let_lease_end(job.id)
    assert queue.claims.requeue() == [job.id]
    fresh = queue.take()
    before = queue.jobs.events("t", job.id)
    error = JobError(code="internal_error", message="stale")
    with pytest.raises(LeaseLost):
        queue.claims.write(stale, [event(), metrics(step=7)], offset=99)
    with pytest.raises(LeaseLost):
        queue.claims.write(stale)
    with pytest.raises(LeaseLost):
        queue.claims.release(stale, "queued", event())
    with pytest.raises(LeaseLost):
        queue.claims.fail(stale, error)
    with pytest.raises(LeaseLost), queue.database.write() as connection:
        queue.claims.succeed(connection, stale, "a:1")
    assert queue.claims.renew([stale, fresh]) == [stale]
    assert queue.jobs.events("t", job.id) == before
    found = queue.jobs.get("t", job.id)
    assert (found.state, found.progress, found.model) == ("running", {}, None)
    assert queue.claims.write(fresh).offset == 0


def test_a_live_lease_is_not_requeued_but_that_of_a_dead_server_is(queue: Queue) -> None:
    job = queue.add()
    queue.take()
    assert queue.claims.requeue() == []
    assert queue.claims.requeue(all_of_others="me") == []
    assert queue.claims.requeue(all_of_others="new server") == [job.id]
    assert queue.jobs.get("t", job.id).state == "queued"


@pytest.mark.parametrize(("asked", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_what_was_asked_of_a_job_outlives_its_server(queue: Queue, asked: str, state: str) -> None:
    job = queue.add()
    queue.take()
    getattr(queue.jobs, asked)("t", job.id)
    queue.claims.requeue(all_of_others="new server")
    assert queue.jobs.get("t", job.id).state == state


def test_events_are_numbered_and_read_in_pages(queue: Queue) -> None:
    job = queue.add()
    claim = queue.take()
    heard = queue.claims.write(claim, [event(f"e{i}") for i in range(5)], offset=50)
    assert heard.offset == 50
    assert queue.claims.write(claim).offset == 50
    told = queue.jobs.events("t", job.id)
    assert [one.seq for one in told] == list(range(1, 8))
    assert [one.message for one in told][2:] == ["e0", "e1", "e2", "e3", "e4"]
    page = queue.jobs.events("t", job.id, after=3, limit=2)
    assert [one.message for one in page] == ["e1", "e2"]
    assert [one.message for one in queue.jobs.last_events("t", job.id, 2)] == ["e3", "e4"]


def test_metrics_become_progress_and_checkpoints_rows(queue: Queue) -> None:
    job = queue.add()
    claim = queue.take()
    resolved = JobEvent(type="resolved", message="", created_at=1.0, data={"recipe": {"epochs": 3}})
    told = [resolved, metrics(step=3, train_loss=0.5), checkpoint(3), metrics(step=4)]
    queue.claims.write(claim, told)
    queue.claims.write(claim, [checkpoint(3)])
    found = queue.jobs.get("t", job.id)
    assert found.progress == {"step": 4, "train_loss": 0.5}
    assert found.resolved == {"epochs": 3}
    assert [(point.step, point.metrics) for point in found.checkpoints] == [
        (3, {"train_loss": 0.5})
    ]


def test_crashes_are_counted_until_a_newer_checkpoint(queue: Queue) -> None:
    queue.add()
    for expected in (1, 2):
        claim = queue.take()
        queue.claims.release(claim, "queued", event(), crashed=True)
        claim = queue.take()
        assert queue.claims.write(claim).crashes == expected
        queue.claims.release(claim, "queued", event())
    claim = queue.take()
    assert queue.claims.write(claim, [checkpoint(1)]).crashes == 0
    queue.claims.release(claim, "queued", event(), crashed=True)
    claim = queue.take()
    assert queue.claims.write(claim, [checkpoint(1)]).crashes == 1


def test_transitions(queue: Queue) -> None:
    job = queue.add()
    assert queue.jobs.pause("t", job.id).state == "paused"
    assert queue.claims.claim("me", 9) is None
    assert queue.jobs.resume("t", job.id).state == "queued"
    with pytest.raises(Conflict, match="queued"):
        queue.jobs.resume("t", job.id)
    claim = queue.take()
    assert queue.jobs.pause("t", job.id).wanted == "pause"
    with pytest.raises(Conflict):
        queue.jobs.resume("t", job.id)
    queue.claims.release(claim, "queued", event())
    assert queue.jobs.get("t", job.id).state == "paused"
    ended = queue.jobs.cancel("t", job.id)
    assert ended.state == "cancelled"
    assert ended.finished_at is not None
    for verb in (queue.jobs.cancel, queue.jobs.pause, queue.jobs.resume):
        with pytest.raises(Conflict, match="cancelled"):
            verb("t", job.id)


def test_a_cancelled_job_cannot_succeed(queue: Queue) -> None:
    job = queue.add()
    claim = queue.take()
    queue.jobs.cancel("t", job.id)
    with pytest.raises(LeaseLost), queue.database.write() as connection:
        queue.claims.succeed(connection, claim, "a:1")
    queue.claims.fail(claim, JobError(code="internal_error", message="killed"))
    found = queue.jobs.get("t", job.id)
    assert (found.state, found.model, found.error) == ("cancelled", None, None)


def test_success_is_undone_with_what_was_written_beside_it(queue: Queue) -> None:
    job = queue.add()
    claim = queue.take()

    def fail_after() -> None:
        with queue.database.write() as connection:
            queue.claims.succeed(connection, claim, "a:1")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail_after()
    assert queue.jobs.get("t", job.id).state == "running"
    with queue.database.write() as connection:
        queue.claims.succeed(connection, claim, "a:1")
    found = queue.jobs.get("t", job.id)
    assert (found.state, found.model) == ("succeeded", "a:1")


def test_jobs_are_their_tenants(queue: Queue) -> None:
    job = queue.add(tenant="t")
    for verb in (queue.jobs.get, queue.jobs.cancel, queue.jobs.pause, queue.jobs.events):
        with pytest.raises(NotFound):
            verb("other", job.id)
    assert queue.jobs.page("other") == []


def test_pages_cover_every_job_once(queue: Queue) -> None:
    made = [queue.add(f"j{i}").id for i in range(7)]
    seen: list[str] = []
    after = None
    while page := queue.jobs.page("t", after=after, limit=3):
        seen += [job.id for job in page]
        after = seen[-1]
    assert seen == made[::-1]
    queue.take()
    assert [job.id for job in queue.jobs.page("t", state="running")] == [made[0]]


@pytest.mark.parametrize("limit", [0, 1001])
def test_pages_of_other_sizes_are_refused(queue: Queue, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        queue.jobs.page("t", limit=limit)


def test_priorities_have_bounds(queue: Queue) -> None:
    with pytest.raises(InvalidInput, match="priority"):
        queue.add(priority=101)


def test_an_older_home_gets_the_tables(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.write() as connection:
        for table in (
            "webhook_deliveries", "webhooks", "job_checkpoints", "job_events", "jobs", "revisions",
            "gallery_photos", "gallery_subjects", "galleries", "audit",
        ):  # fmt: skip
            connection.execute(sa.text(f"DROP TABLE {table}"))
        for table, column in (("usage", "audio_ms"), ("prices", "audio_minute_micro")):
            connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    database.close()
    again = Queue(tmp_path)
    assert again.add().state == "queued"
    again.database.close()


def test_the_command_lists_jobs_of_a_kind(tmp_path: Path) -> None:
    assert list(KINDS) == job_commands.KINDS
    queue = Queue(tmp_path)
    for kind in KINDS:
        queue.jobs.add("default", "key", kind, kind, {})
    queue.database.close()
    for kind in KINDS:
        asked = ["--home", str(tmp_path), "jobs", "list", "--kind", kind, "--json"]
        (told,) = json.loads(CliRunner().invoke(cli, asked).stdout)
        assert (told["kind"], told["name"]) == (kind, kind)
