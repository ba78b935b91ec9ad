"""Jobs that their runner does itself: imports and compressions, and what ends or moves them."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from lmaas.cli.job_progress import line, result_lines
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import (
    Cancelled,
    Conflict,
    InsufficientQuota,
    InvalidInput,
    ModelNotFound,
    ModelRefused,
    StorageFull,
)
from lmaas.job import Job, JobEvent, JobState
from lmaas.jobs.claims import Claims
from lmaas.jobs.in_process import MADE, InProcess, Reporter, Succeed
from lmaas.jobs.inputs import SUFFIX, Inputs
from lmaas.jobs.store import Jobs
from lmaas.registry.database import Database
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT, CompressOptions, PushOptions
from servers import serving

PATIENCE_S = 60.0


class Lanes:
    """A queue, and lanes that run its pulls with `work`."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "jobs"
        self.database = Database(home)
        self.rows, self.claims = Jobs(self.database), Claims(self.database)
        self.inputs = Inputs(self.folder)
        self.began = 0
        self.cut_off = 0
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def work(self, job: Job, reporter: Reporter, succeed: Succeed) -> None:
        self.began += 1
        for step in range(1001):
            reporter.progress(f"step {step}", "counting", step / 1000, {"done": step / 1000})
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        if self.error is not None:
            raise self.error
        with self.database.write() as connection:
            succeed(connection, "m:1")

    def add(self) -> Job:
        job = self.rows.add("t", "key", "pull", "m", {})
        self.inputs.put(job.id, "token", "secret")
        return job

    def lane(self, only: str | None = None) -> InProcess:
        return InProcess(
            self.folder,
            self.claims,
            self.database.watch("jobs"),
            {"pull": self.work},
            max_running=2,
            max_per_tenant=0,
            only=only,
        )

    async def state(self, job: Job, *wanted: JobState) -> Job:
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.rows.get("t", job.id)).state not in wanted:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def lanes(home: Path) -> AsyncIterator[tuple[Lanes, InProcess]]:
    made = Lanes(home)
    lane = made.lane()
    await lane.start()
    try:
        yield made, lane
    finally:
        await lane.close(0)
        made.database.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_it_succeeds_with_its_last_events_before_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, _):
            job = made.add()
            made.go_on.set()
            found = await made.state(job, "succeeded")
            assert (found.model, found.attempts, found.progress) == ("m:1", 1, {"done": 1.0})
            told = made.rows.events("t", job.id, limit=1000)
            assert told[-1].message == "The model is registered as m:1."
            assert told[-2].data == {"done": 1.0}
            # A thousand steps are not a thousand rows.
            assert 100 < len([event for event in told if event.type == "metrics"]) < 210
            assert (made.folder / job.id / "log").read_text().count("step ") < 210
            await gone(made, job)

    run(test)


async def gone(made: Lanes, job: Job) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while made.inputs.place(job.id).exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_what_another_takes_over_is_cut_off_and_succeeds_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, _):
            job = made.add()
            await made.state(job, "running")
            other = made.lane()
            await other.start()
            try:
                while made.cut_off < 1 or made.began < 2:
                    await asyncio.sleep(0.02)
                made.go_on.set()
                found = await made.state(job, "succeeded")
            finally:
                await other.close(5)
            assert (found.attempts, made.began, made.cut_off) == (2, 2, 1)
            told = [event.message for event in made.rows.events("t", job.id, limit=1000)]
            assert told.count("The model is registered as m:1.") == 1

    run(test)


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_it_ends_when_it_is_told_to(tmp_path: Path, verb: str) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, _):
            job = made.add()
            await made.state(job, "running")
            getattr(made.rows, verb)("t", job.id)
            if verb == "cancel":
                await made.state(job, "cancelled")
                await gone(made, job)
                return
            await made.state(job, "paused")
            assert made.inputs.get(job.id, "token") == "secret"
            made.rows.resume("t", job.id)
            made.go_on.set()
            assert (await made.state(job, "succeeded")).attempts == 2

    run(test)


def test_a_runner_that_stops_leaves_it_to_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, lane):
            job, other = made.add(), made.add()
            await made.state(job, "running")
            await lane.close(3600)
            # Pulls go on where they were, so nobody waits for them.
            assert made.rows.get("t", job.id).state == "queued"
            assert made.inputs.get(job.id, "token") == "secret"
            alone = made.lane(only=other.id)
            made.go_on.set()
            await alone.start()
            try:
                await made.state(other, "succeeded")
                await asyncio.sleep(1)
                assert made.rows.get("t", job.id).state == "queued"
            finally:
                await alone.close(5)

    run(test)


@pytest.mark.parametrize(
    ("error", "code"), [(ModelRefused("No."), "model_refused"), (KeyError("x"), "internal_error")]
)
def test_what_fails_says_why(tmp_path: Path, error: Exception, code: str) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, _):
            made.error = error
            job = made.add()
            made.go_on.set()
            found = await made.state(job, "failed")
            assert found.error is not None
            assert found.error.code == code
            assert str(error) in (made.folder / job.id / "log").read_text()
            await gone(made, job)

    run(test)


def test_a_full_disk_delays_it_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def test() -> None:
        async with lanes(tmp_path) as (made, _):
            claim = made.claims.claim

            def full(*args: Any, **told: Any) -> Any:
                nonlocal tries
                tries += 1
                if tries == 1:
                    raise StorageFull("The database cannot be written.")
                return claim(*args, **told)

            monkeypatch.setattr(made.claims, "claim", full)
            made.go_on.set()
            job = made.add()
            await made.state(job, "succeeded")
            await gone(made, job)

    run(test)
    assert tries > 1


def test_how_one_ended_is_said_in_words(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        rows, claims = Jobs(database), Claims(database)
        job = rows.add("t", "key", "compress", "m", {})
        other = rows.add("t", "key", "pull", "m", {})
        rows.cancel("t", other.id)
        with pytest.raises(Conflict, match=f"The job {other.id} was cancelled already"):
            rows.cancel("t", other.id)
        taken = claims.claim("me", 9)
        assert taken is not None
        with database.write() as connection:
            claims.succeed(connection, taken[0], "m:1", made=MADE["compress"])
        assert rows.events("t", job.id)[-1].message == "The variant is registered with m:1."
        assert result_lines(rows.get("t", job.id))[1] == "The variant is registered with m:1."
        with pytest.raises(Conflict, match="has succeeded already"):
            rows.pause("t", job.id)


def test_what_was_downloaded_before_is_no_gain(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        rows, claims = Jobs(database), Claims(database)
        job = rows.add("t", "key", "pull", "m", {})
        for there, crashes in ((5, 0), (5, 1), (9, 0), (9, 1), (9, 2)):
            taken = claims.claim("dead", 9)
            assert taken is not None
            data = {"file": "w", "done_bytes": there, "total_bytes": 9}
            told = JobEvent(type="metrics", message="", created_at=1.0, data=data)
            claims.write(taken[0], [told])
            assert claims.write(taken[0]).crashes == crashes
            assert claims.requeue(all_of_others="next") == [job.id]


@pytest.mark.parametrize("gained", [False, True])
def test_what_ends_server_after_server_fails(tmp_path: Path, gained: bool) -> None:
    async def test() -> None:
        async with lanes(tmp_path) as (made, lane):
            await lane.close(0)
            job = made.add()
            for _ in range(3):
                taken = made.claims.claim("dead", 9)
                assert taken is not None
                assert made.claims.requeue(all_of_others="next") == [job.id]
            if gained:
                taken = made.claims.claim("alive", 9)
                assert taken is not None
                told = JobEvent(type="metrics", message="", created_at=1.0, data={"done_bytes": 1})
                made.claims.write(taken[0], [told])
                made.claims.release(taken[0], "queued", told)
            made.go_on.set()
            again = made.lane()
            await again.start()
            try:
                found = await made.state(job, "failed", "succeeded")
                await gone(made, job)
            finally:
                await again.close(5)
            assert (found.state == "succeeded") == gained == (made.began == 1)
            assert gained or (found.error is not None and found.error.code == "unavailable")

    run(test)


def test_a_success_that_was_cancelled_meanwhile_is_none(tmp_path: Path) -> None:
    made = Lanes(tmp_path)
    with closing(made.database):
        job = made.rows.add("t", "key", "import", "m", {})
        taken = made.claims.claim("me", 1)
        assert taken is not None
        with pytest.raises(InvalidInput, match="of the kind import"):
            made.rows.pause("t", job.id)
        made.rows.cancel("t", job.id)

        def end(connection: sa.Connection) -> None:
            made.claims.succeed(connection, taken[0], "m:1")

        with pytest.raises(Exception, match=job.id), made.database.write() as connection:
            end(connection)
        assert made.rows.get("t", job.id).model is None


def tanh(folder: Path, name: str = "tanh.onnx", scale: float = 1.0) -> tuple[Path, PushOptions]:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y"))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [scale])
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Mul", ["t", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, folder / name)
    sample = folder / "sample.npy"
    np.save(sample, np.ones((2, 4), np.float32))
    return folder / name, PushOptions(name="tanh", task="tensor", sample=str(sample))


def test_an_upload_is_imported_though_its_server_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    path, options = tanh(tmp_path)
    with serving(home) as server:
        with Client(server.url, server.key) as client:
            job = client.start_push(path, options)
            assert (job.kind, job.name, job.recipe["uploaded"]) == ("import", "tanh", True)
            kept = home / "jobs" / f"{job.id}{SUFFIX}"
            assert (kept / "files" / "tanh.onnx").is_file()
            assert (kept / "sample" / "sample.npy").is_file()
            assert kept.stat().st_mode & 0o777 == 0o700
        os.kill(server.pid, signal.SIGKILL)
        while HomeLock.read(home) is not None:
            time.sleep(0.02)
    path.unlink()
    with serving(home) as server, Client(server.url, server.key) as client:
        done = client.wait_for_job(job.id)
        assert (done.state, done.model) == ("succeeded", "tanh:1")
        (version,) = client.versions("tanh")
        assert (version.ref, version.manifest.engine) == ("tanh:1", "openvino")
        answer = client.predict("tanh", np.ones((1, 4), np.float32))
        assert np.allclose(answer["y"], np.tanh(1), atol=1e-2)
        assert not kept.exists()
        # What is wrong with a file is told as it is without a job.
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"no model")
        with pytest.raises((InvalidInput, ModelRefused)):
            client.push(bad, options)
        assert client.jobs(limit=1)[0].state == "failed"
        with httpx.Client(base_url=server.url, headers=server.admin) as http:
            refused = http.post("/api/models?wait=maybe", content=b"")
            assert refused.status_code == 400
            assert "wait is true or false" in refused.text
            assert len(http.get("/api/jobs?kind=import").json()) == 2


def test_a_home_without_a_server_does_its_own(tmp_path: Path) -> None:
    path, options = tanh(tmp_path)
    with closing(Service(Settings(home=str(tmp_path / "home")))) as service:
        job = service.model_jobs.push(TENANT, path, options)
        done = asyncio.run(service.model_jobs.see_through(job))
        assert (done.state, done.model) == ("succeeded", "tanh:1")
        assert path.is_file()
        assert not list((tmp_path / "home" / "jobs").glob("*.*"))
        with pytest.raises(InvalidInput, match="does not exist"):
            service.model_jobs.push(TENANT, tmp_path / "nothing", options)


def test_uploads_that_wait_count_for_the_tenants_disk(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path / "home"), tenant_disk_bytes=3 << 20)
    with closing(Service(settings)) as service:

        def push(number: int) -> Job:
            with service.workshop.folder("upload") as folder:
                path = folder / "model.onnx"
                path.write_bytes(bytes(2 << 20))
                return service.model_jobs.push(
                    "other", path, PushOptions(name=f"m{number}"), uploaded=True
                )

        first = push(1)
        with pytest.raises(InsufficientQuota):
            push(2)
        service.jobs.cancel("other", first.id)
        push(3)


def test_a_compression_is_a_job(tmp_path: Path, language_home: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(language_home, home)
    text = "hello world, how are you today? i am fine, thank you. " * 20
    with serving(home) as server, Client(server.url, server.key) as client:
        with pytest.raises(ModelNotFound):
            client.start_compress("nothing", CompressOptions(to="int8"))
        job = client.start_compress("tiny", CompressOptions(to="int8", text=text))
        assert (job.kind, job.recipe["model"]) == ("compress", "tiny:1")
        assert text not in repr(client.job(job.id))
        assert client.start_compress("tiny", CompressOptions(to="int8", text=text)).id == job.id
        assert client.start_compress("tiny", CompressOptions(to="int4", text=text)).id != job.id
        with pytest.raises(InvalidInput, match="of the kind compress"):
            client.pause_job(job.id)
        for queued in client.jobs():
            client.cancel_job(queued.id)
        with pytest.raises(Cancelled):
            client.wait_for_job(job.id)
        assert client.model("tiny").variants == ()
        stages: list[str] = []
        made = client.compress(
            "tiny",
            CompressOptions(to="int8", text=text),
            heard=lambda event: stages.append(event.data.get("stage", "")),
        )
        assert client.model("tiny").variants == (made,)
        assert {"making int8", "measuring the source", "measuring int8"} <= set(stages)
        (newest,) = client.jobs(limit=1)
        assert line(newest.progress) == "measuring int8 100%"
        assert not list((home / "jobs").glob(f"*{SUFFIX}"))
