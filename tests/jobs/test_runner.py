"""Jobs in processes of their own: what ends them, and what they go on from."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import job_runner
from job_runner import Bench
from lmaas.errors import ModelNotFound
from lmaas.job import Job, JobState
from lmaas.jobs import process
from lmaas.placement.job import PROCESS_SUFFIX

PATIENCE_S = 60.0


@asynccontextmanager
async def running(home: Path, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench(home, **options)
    await bench.runner.start()
    try:
        yield bench
    finally:
        await bench.runner.close(5)
        bench.close()


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def state(bench: Bench, job: Job, *wanted: JobState) -> Job:
    await until(lambda: bench.get(job).state in wanted)
    return bench.get(job)


def pid_of(bench: Bench, job: Job) -> int:
    return int(json.loads((bench.home / "jobs" / f"{job.id}{PROCESS_SUFFIX}").read_text())["pid"])


async def started(bench: Bench, job: Job, steps: int = 1) -> int:
    await until(lambda: len(bench.steps(job)) >= steps)
    return pid_of(bench, job)


def run(test: Awaitable[None]) -> None:
    async def main() -> None:
        await test

    asyncio.run(main())


def test_a_job_runs_and_its_result_is_registered(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=12, every=5)
            found = await state(bench, job, "succeeded", "failed")
            assert found.model == "counter:1"
            assert found.error is None
            assert bench.steps(job) == list(range(1, 13))
            assert found.progress["step"] == 12
            assert [point.step for point in found.checkpoints] == [5, 10]
            assert bench.registry.resolve("t", "counter:1").files[0].path == "source/steps.txt"
            folder = tmp_path / "jobs" / job.id
            left = {"checkpoint", "events.jsonl", "job.json", "log"}
            await until(lambda: {path.name for path in folder.iterdir()} == left)

    run(test())


def resumed(steps: list[int], total: int, *, every: int) -> None:
    """Check that every step was told in order, from a checkpoint again after the one break."""
    at = next((i for i in range(1, len(steps)) if steps[i] <= steps[i - 1]), len(steps))
    assert steps[:at] == list(range(1, at + 1))
    if at < len(steps):
        assert steps[at] > 1
        assert (steps[at] - 1) % every == 0
        assert steps[at:] == list(range(steps[at], total + 1))
    assert steps[-1] == total


def test_a_killed_process_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=30, every=4)
            pid = await started(bench, job, 6)
            os.kill(pid, signal.SIGKILL)
            found = await state(bench, job, "succeeded", "failed")
            assert found.state == "succeeded"
            assert found.attempts == 2
            resumed(bench.steps(job), 30, every=4)

    run(test())


def test_crashes_without_progress_end_the_job_with_its_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=9, every=2, crash_at=5)
            after = bench.add(name="after", steps=1)
            found = await state(bench, job, "failed", "succeeded")
            assert found.error is not None
            assert found.attempts == 3
            assert "SIGKILL" in found.error.message
            assert "about to crash" in found.error.message
            assert (await state(bench, after, "succeeded", "failed")).state == "succeeded"
            with pytest.raises(ModelNotFound):
                bench.registry.resolve("t", "counter")

    run(test())


def test_an_error_of_the_work_is_the_jobs(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=9, fail=True)
            found = await state(bench, job, "failed", "succeeded")
            assert found.error is not None
            assert (found.error.code, found.error.message, found.error.hint, found.error.param) == (
                "invalid_input", "Line 3 has no label.", "Give it one.", "data",
            )  # fmt: skip
            assert found.attempts == 1
            assert bench.jobs.events("t", job.id)[-1].type == "error"
            assert bench.registry.models("t") == []

    run(test())


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_ends_the_whole_group(tmp_path: Path, deaf: bool) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=10_000, family=True, deaf=deaf)
            pid = await started(bench, job)
            family = int((tmp_path / "jobs" / job.id / "family").read_text())
            bench.jobs.cancel("t", job.id)
            found = await state(bench, job, "cancelled", "failed", "succeeded")
            assert found.state == "cancelled"
            await until(lambda: not psutil.pid_exists(pid))
            await until(lambda: gone(family))
            assert bench.registry.models("t") == []

    run(test())


def gone(pid: int) -> bool:
    """Whether it has ended; in a container nobody may collect the dead."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("deaf", [False, True])
def test_pause_and_resume(tmp_path: Path, deaf: bool) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=60, every=3, deaf=deaf)
            pid = await started(bench, job, 4)
            bench.jobs.pause("t", job.id)
            found = await state(bench, job, "paused", "failed", "succeeded")
            assert found.state == "paused"
            assert not psutil.pid_exists(pid)
            told = bench.steps(job)
            last = found.checkpoints[-1].step
            bench.jobs.resume("t", job.id)
            found = await state(bench, job, "failed", "succeeded")
            assert found.state == "succeeded"
            assert bench.steps(job) == told + list(range(last + 1, 61))
            assert last == told[-1] or deaf

    run(test())


def test_a_job_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, memory_bytes=256 << 20) as bench:
            job = bench.add(steps=10_000, grow_bytes=400 << 20)
            found = await state(bench, job, "failed", "succeeded")
            assert found.error is not None
            assert found.error.code == "does_not_fit"
            assert "256 MiB" in found.error.message
            assert found.attempts == 1

    run(test())


def test_a_job_that_takes_too_much_disk_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, disk_bytes=8 << 20) as bench:
            job = bench.add(steps=10_000, fill_files=20)
            found = await state(bench, job, "failed", "succeeded")
            assert found.error is not None
            assert found.error.code == "payload_too_large"
            assert "8 MiB" in found.error.message

    run(test())


def test_other_tenants_jobs_have_a_bound_of_their_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, tenant_memory_bytes=256 << 20) as bench:
            job = bench.add(steps=10_000, grow_bytes=400 << 20)
            found = await state(bench, job, "failed", "succeeded")
            assert found.error is not None
            assert "256 MiB" in found.error.message

    run(test())


def test_an_event_that_is_too_long_is_not_kept(tmp_path: Path) -> None:
    good = '{"type":"message","message":"a","created_at":1.0}\n'
    long = good.replace('"a"', f'"{"x" * process.MAX_EVENT_BYTES}"')
    (tmp_path / "events.jsonl").write_text(good + long + good)
    events, _ = process.read_events(tmp_path, 0)
    assert [event.message for event in events] == ["a", "a"]


def test_only_so_many_run_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, max_running=2) as bench:
            made = [bench.add(name=f"m{i}", steps=15) for i in range(4)]
            most = 0
            while not all(bench.get(job).ended for job in made):
                most = max(most, len(bench.jobs.page("t", state="running")))
                await asyncio.sleep(0.02)
            assert most == 2
            assert {bench.get(job).state for job in made} == {"succeeded"}

    run(test())


def test_a_stopped_server_hands_its_jobs_to_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            job = bench.add(steps=40, every=1000)
            await started(bench, job, 3)
        async with running(tmp_path) as bench:
            told = bench.steps(job)
            found = await state(bench, job, "succeeded", "failed")
            assert found.state == "succeeded"
            assert found.attempts == 2
            assert sorted(bench.steps(job)) == list(range(1, 41))
            assert len(told) >= 3

    run(test())


def test_a_killed_server_leaves_no_process_and_loses_no_job(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, job_runner.__file__, "server", str(tmp_path)], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    server.stdout.readline()
    bench = Bench(tmp_path)
    job = bench.add(steps=60, every=4, family=True)

    async def kill_server() -> int:
        pid = await started(bench, job, 6)
        server.kill()
        server.wait()
        family = int((tmp_path / "jobs" / job.id / "family").read_text())
        await until(lambda: gone(pid) and gone(family))
        return len(bench.steps(job))

    try:
        told = asyncio.run(kill_server())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert bench.get(job).state == "running"
    bench.close()

    async def go_on() -> None:
        async with running(tmp_path) as again:
            found = await state(again, job, "succeeded", "failed")
            assert found.state == "succeeded"
            steps = again.steps(job)
            assert steps[:told] == list(range(1, told + 1))
            resumed(steps, 60, every=4)
            assert [version.ref for version in again.registry.models("t")] == ["counter:1"]

    asyncio.run(go_on())


def test_a_result_is_registered_once_however_the_server_dies(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bench:
            bench.fail_after_publish = 1
            job = bench.add(steps=2)
            found = await state(bench, job, "failed", "succeeded")
            assert found.state == "failed"
            assert bench.registry.models("t") == []
        async with running(tmp_path) as bench:
            # Its result is complete, but nobody has registered it: the server died in between.
            job = bench.add(steps=2)
            await state(bench, job, "succeeded")
            assert len(bench.registry.versions("t", "counter")) == 1

    run(test())


def test_a_complete_result_is_registered_without_a_second_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = bench.add(steps=3)
    claimed = bench.claims.claim("dead server", 9)
    assert claimed is not None
    folder = tmp_path / "jobs" / job.id
    (folder / "result" / "source").mkdir(parents=True)
    (folder / "result" / "source" / "steps.txt").write_text("1 to 3")
    (folder / "done").touch()
    bench.close()

    async def test() -> None:
        async with running(tmp_path) as again:
            found = await state(again, job, "succeeded", "failed")
            assert found.model == "counter:1"
            assert again.steps(job) == []
            assert len(again.registry.versions("t", "counter")) == 1

    run(test())


def test_a_job_sees_no_secret_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "secret")
    script = tmp_path / "look.py"
    script.write_text(
        "import os, socket, sys, threading\n"
        "from pathlib import Path\n"
        "from lmaas.jobs.child import main\n"
        "from lmaas.errors import InvalidInput\n"
        "def look(task, folder, tell):\n"
        "    listener = socket.create_server(('127.0.0.1', 0))\n"
        "    with socket.create_connection(listener.getsockname(), 5): pass\n"
        "    listener.close()\n"
        "    try:\n"
        "        socket.create_connection(('192.0.2.1', 80), 1)\n"
        "    except OSError as error:\n"
        "        told = type(error).__name__\n"
        "    leads = os.getpgid(0) == os.getpid()\n"
        "    raise InvalidInput(f'{sorted(os.environ)} {told} {os.nice(0)} {leads}')\n"
        "sys.exit(main(Path(sys.argv[1]), look))\n"
    )

    async def test() -> None:
        async with running(tmp_path, command=(sys.executable, "-P", str(script))) as bench:
            found = await state(bench, bench.add(), "failed", "succeeded")
            assert found.error is not None
            told = found.error.message
            assert "API_KEY" not in told
            assert "Error" in told
            assert told.endswith("10 True")

    run(test())


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    good = '{"type":"message","message":"a","created_at":1.0}\n'
    (tmp_path / "events.jsonl").write_text(good + '{"type":"mess\n' + good + '{"type":')
    events, offset = process.read_events(tmp_path, 0)
    assert [event.message for event in events] == ["a", "a"]
    assert process.read_events(tmp_path, offset) == ([], offset)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('"x"}\n' + good)
    events, end = process.read_events(tmp_path, offset)
    assert [event.message for event in events] == ["a"]
    assert process.read_events(tmp_path, end) == ([], end)
