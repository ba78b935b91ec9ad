import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from ir_models import STEPS_PER_S, Models, add_one, no_graph, slow
from lmaas.config import Settings
from lmaas.errors import (
    CorruptBlob,
    DoesNotFit,
    InvalidInput,
    LMaaSError,
    NotFound,
    ParityFailed,
    Quarantined,
    QueueFull,
    TimedOut,
    Unavailable,
)
from lmaas.placement.local import LocalPlacement
from lmaas.placement.probe import missing
from lmaas.placement.worker import JOURNAL_SUFFIX
from lmaas.runtime.journal import read_journal
from lmaas.serving.metrics import Metrics
from lmaas.serving.plan import MIB, needed_bytes
from lmaas.serving.pool import Pool
from lmaas.serving.worker import WorkerBackend
from lmaas.types import JSON, TENANT, FileRef, LanguageSpec, ModelVersion, Payload, WorkerStatus


def tensors(values: Any) -> Payload:
    return Payload(media_type=JSON, body=json.dumps({"inputs": values}).encode())


def seconds(amount: float) -> Payload:
    return tensors([[int(amount * STEPS_PER_S)]])


class Serving:
    """A pool with two models: `add` (quick) and `slow`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.models = Models(folder)
        self.metrics = Metrics()
        self.add = self.models.make("add", add_one)
        self.slow = self.models.make("slow", slow)
        self.placement = LocalPlacement(folder / "home")
        self.pool = Pool(
            Settings(home=str(folder / "home"), **settings),
            self.models,
            self.metrics,
            placement=self.placement,
        )

    async def ask(self, version: ModelVersion, payload: Payload) -> Any:
        answer = await self.pool.call(version, payload)
        return json.loads(answer.body)["outputs"]["y"]

    def status(self, version: ModelVersion) -> WorkerStatus | None:
        return next((s for s in self.pool.status() if s.model == version.ref), None)

    async def holds(self, version: ModelVersion, count: int) -> None:
        """Wait until the worker of a model has so many requests."""
        await until(lambda: (s := self.status(version)) and s.queued == count)

    async def runs(self) -> None:
        """Wait until a worker is at work on a request."""
        folder = self.placement.socket_path().parent
        await until(lambda: any(map(read_journal, folder.glob(f"*{JOURNAL_SUFFIX}"))))

    def pid(self, version: ModelVersion) -> int:
        status = self.status(version)
        assert status is not None
        assert status.pid is not None
        return status.pid


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Serving]:
    this = Serving(folder, **settings)
    await this.pool.start()
    try:
        yield this
    finally:
        await this.pool.close(0)
        this.models.close()


async def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait for `condition`; a bound, not a measurement."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def test_first_calls_share_one_load(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            calls = [this.ask(this.add, tensors([[i, 0, 0, 0]])) for i in range(20)]
            assert await asyncio.gather(*calls) == [[[i + 1, 1, 1, 1]] for i in range(20)]
            assert this.models.unpacked == [this.add.ref]
            assert len(this.pool.status()) == 1
            assert this.pool.ready()

    asyncio.run(run())


def test_a_bad_request_fails_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.add)
            results = await asyncio.gather(
                this.ask(this.add, tensors([[1, 2, 3, 4]])),
                this.ask(this.add, tensors([[1, 2, 3]])),
                this.ask(this.add, tensors("nonsense")),
                this.ask(this.add, tensors([5, 6, 7, 8])),
                return_exceptions=True,
            )
            assert results[0] == [[2, 3, 4, 5]]
            assert isinstance(results[1], InvalidInput)
            assert isinstance(results[2], InvalidInput)
            assert results[3] == [6, 7, 8, 9]

    asyncio.run(run())


def test_requests_that_wait_are_joined(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, heartbeat_s=0.2) as this:
            calls = [this.ask(this.add, tensors([[i, 0, 0, 0]])) for i in range(64)]
            await asyncio.gather(*calls)
            await until(lambda: b'lmaas_batch_size_sum{model="add:1"} 64' in this.metrics.render())
            text = this.metrics.render().decode()
            count = next(line for line in text.splitlines() if "batch_size_count" in line)
            assert float(count.split()[-1]) < 64

    asyncio.run(run())


def test_killed_worker_loses_no_request(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.slow)
            steps = [STEPS_PER_S // 40 + i for i in range(50)]
            calls = [asyncio.ensure_future(this.ask(this.slow, tensors([[s]]))) for s in steps]
            await this.holds(this.slow, 50)
            first = this.pid(this.slow)
            os.kill(first, signal.SIGKILL)
            assert await asyncio.gather(*calls) == [[[s]] for s in steps]
            status = this.status(this.slow)
            assert status is not None
            assert status.restarts == 1
            assert status.pid != first
            assert b'lmaas_worker_restarts_total{model="slow:1"} 1.0' in this.metrics.render()

    asyncio.run(run())


def test_request_that_kills_two_workers_is_quarantined(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.slow)
            poison = asyncio.ensure_future(this.ask(this.slow, seconds(5)))
            neighbour = asyncio.ensure_future(this.ask(this.slow, tensors([[9]])))
            await this.runs()
            innocent = asyncio.ensure_future(this.ask(this.slow, tensors([[7]])))
            first = this.pid(this.slow)
            os.kill(first, signal.SIGKILL)
            await until(lambda: (s := this.status(this.slow)) and s.pid not in (None, first))
            await this.runs()
            os.kill(this.pid(this.slow), signal.SIGKILL)
            with pytest.raises(Quarantined):
                await poison
            assert await neighbour == [[9]]
            assert await innocent == [[7]]
            with pytest.raises(Quarantined):
                await this.ask(this.slow, seconds(5))

    asyncio.run(run())


def test_wedged_worker_is_found_and_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, heartbeat_s=0.2) as this:
            await this.pool.load(this.add)
            os.kill(this.pid(this.add), signal.SIGSTOP)
            assert await this.ask(this.add, tensors([[1, 2, 3, 4]])) == [[2, 3, 4, 5]]
            status = this.status(this.add)
            assert status is not None
            assert status.restarts == 1

    asyncio.run(run())


def test_engine_that_does_not_come_back_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, heartbeat_s=0.2, request_timeout_s=1) as this:
            await this.pool.load(this.slow)
            with pytest.raises((TimedOut, Quarantined)):
                await this.ask(this.slow, seconds(60))
            await until(this.pool.ready)
            assert await this.ask(this.slow, tensors([[7]])) == [[7]]

    asyncio.run(run())


def test_not_ready_while_a_loaded_model_has_no_worker(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.add)
            assert this.pool.ready()
            os.kill(this.pid(this.add), signal.SIGKILL)
            await until(lambda: not this.pool.ready())
            await until(this.pool.ready)

    asyncio.run(run())


def test_cancelled_call_frees_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, max_queue=2) as this:
            await this.pool.load(this.slow)
            running = asyncio.ensure_future(this.ask(this.slow, seconds(1)))
            await this.runs()
            queued = asyncio.ensure_future(this.ask(this.slow, seconds(50)))
            await this.holds(this.slow, 2)
            with pytest.raises(QueueFull) as refused:
                await this.ask(this.slow, tensors([[1]]))
            assert refused.value.retry_after_s >= 1
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            assert await this.ask(this.slow, tensors([[3]])) == [[3]]
            assert await running == [[STEPS_PER_S]]

    asyncio.run(run())


def test_budget_for_one_model_evicts_the_other(tmp_path: Path) -> None:
    async def run() -> None:
        budget = needed_bytes(1000) + 10 * MIB
        async with serving(tmp_path, memory_budget_bytes=budget) as this:
            assert await this.ask(this.add, tensors([[1, 2, 3, 4]]))
            assert await this.ask(this.slow, tensors([[1]]))
            assert [status.model for status in this.pool.status()] == [this.slow.ref]
            busy = asyncio.ensure_future(this.ask(this.slow, seconds(0.5)))
            await this.holds(this.slow, 1)
            assert await this.ask(this.add, tensors([[1, 2, 3, 4]]))
            assert await busy

    asyncio.run(run())


def test_model_over_the_budget_is_refused_with_numbers(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, memory_budget_bytes=200 * MIB) as this:
            file = FileRef(path="x", role="compiled", sha256="0" * 64, size_bytes=1000 * MIB)
            huge = msgspec.structs.replace(this.add, files=(file,))
            with pytest.raises(DoesNotFit, match=r"needs about 2328 MiB.* is 200 MiB"):
                await this.ask(huge, tensors([[1, 2, 3, 4]]))

    asyncio.run(run())


def test_pinned_model_is_loaded_at_start_and_kept(tmp_path: Path) -> None:
    async def run() -> None:
        budget = needed_bytes(1000) + 10 * MIB
        settings = {"pinned": ("add",), "memory_budget_bytes": budget, "heartbeat_s": 0.1}
        async with serving(tmp_path, **settings) as this:
            assert not this.pool.ready()
            await until(this.pool.ready)
            status = this.status(this.add)
            assert status is not None
            assert status.pinned
            with pytest.raises(DoesNotFit, match="pinned"):
                await this.ask(this.slow, tensors([[1]]))

    asyncio.run(run())


def test_pin_that_names_no_model_keeps_the_pool_not_ready(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, pinned=("nobody",), heartbeat_s=0.1) as this:
            await asyncio.sleep(0.3)
            assert not this.pool.ready()

    asyncio.run(run())


def test_idle_model_is_unloaded(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, idle_unload_s=0.5, heartbeat_s=0.1) as this:
            await this.pool.load(this.add)
            process = psutil.Process(this.pid(this.add))
            await until(lambda: not this.pool.status())
            await until(lambda: not process.is_running())
            assert await this.ask(this.add, tensors([[1, 2, 3, 4]])) == [[2, 3, 4, 5]]

    asyncio.run(run())


def test_close_finishes_what_runs_and_refuses_the_rest(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.slow)
            process = psutil.Process(this.pid(this.slow))
            calls = [asyncio.ensure_future(this.ask(this.slow, seconds(0.2))) for _ in range(3)]
            await this.holds(this.slow, 3)
            closing = asyncio.ensure_future(this.pool.close(60))
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await this.ask(this.slow, tensors([[1]]))
            with pytest.raises(Unavailable):
                await this.ask(this.add, tensors([[1, 2, 3, 4]]))
            await closing
            assert all([await call for call in calls])
            assert not process.is_running()
            assert not this.pool.ready()

    asyncio.run(run())


def test_close_deadline_ends_what_takes_longer(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.slow)
            process = psutil.Process(this.pid(this.slow))
            call = asyncio.ensure_future(this.ask(this.slow, seconds(100)))
            await this.runs()
            await this.pool.close(0.2)
            with pytest.raises(Unavailable):
                await call
            assert not process.is_running()

    asyncio.run(run())


def test_model_that_cannot_be_loaded_says_why_and_does_not_loop(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            broken = this.models.make("broken", no_graph)
            for _ in range(2):
                with pytest.raises(LMaaSError, match="cannot load"):
                    await this.ask(broken, tensors([[1, 2, 3, 4]]))
            assert this.models.unpacked == [broken.ref]
            (status,) = this.pool.status()
            assert status.state == "failed"
            assert "cannot load" in status.reason

    asyncio.run(run())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            this.models.damage(this.add)
            with pytest.raises(CorruptBlob, match=r"model\.bin"):
                await this.pool.load(this.add)

    asyncio.run(run())


def test_stopped_while_its_files_are_unpacked_it_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            began, go_on = threading.Event(), threading.Event()
            folders: list[Path] = []
            there: list[bool] = []
            unpack = this.models.unpack

            def slowly(version: ModelVersion, folder: Path, *rest: Any) -> Path:
                folders.append(folder)
                began.set()
                assert go_on.wait(60)
                done = unpack(version, folder, *rest)
                there.append(folder.parent.exists())
                return done

            monkeypatch.setattr(this.models, "unpack", slowly)
            load = asyncio.ensure_future(this.pool.load(this.add))
            await asyncio.to_thread(began.wait, 60)
            await this.pool.stop(TENANT, "add")
            with pytest.raises(Unavailable):
                await load
            go_on.set()
            (folder,) = folders
            await until(lambda: there == [True])
            await until(lambda: not folder.parent.exists())

    asyncio.run(run())


def test_a_process_that_dies_while_files_are_unpacked_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            go_on = threading.Event()
            monkeypatch.setattr(this.models, "unpack", lambda *_: go_on.wait(60))
            load = asyncio.ensure_future(this.pool.load(this.add))

            def processes() -> list[psutil.Process]:
                here = psutil.Process().children()
                return [child for child in here if "lmaas.placement.enter" in child.cmdline()]

            await until(processes)
            for process in processes():
                process.kill()
            with pytest.raises(Unavailable, match="-9"):
                await load
            assert not go_on.is_set()
            go_on.set()

    asyncio.run(run())


def test_bf16_that_parity_does_not_allow_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, precision="bf16") as this:
            with pytest.raises((ParityFailed, InvalidInput), match="bf16"):
                await this.pool.load(this.add)

    asyncio.run(run())


def test_stop_unloads_by_name(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as this:
            newer = this.models.make("add", add_one)
            await this.pool.load(this.add)
            await this.pool.load(newer)
            await this.pool.stop("default", "add:1")
            assert [status.model for status in this.pool.status()] == [newer.ref]
            await this.pool.stop("default", "add")
            assert not this.pool.status()
            with pytest.raises(NotFound):
                await this.pool.stop("default", "add")

    asyncio.run(run())


def test_worker_has_no_network_where_the_kernel_permits(tmp_path: Path) -> None:
    if "network" in missing():
        pytest.skip("this kernel gives no network namespaces to us")

    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.add)
            ours = Path("/proc/self/ns/net").readlink()
            assert Path(f"/proc/{this.pid(this.add)}/ns/net").readlink() != ours

    asyncio.run(run())


def test_worker_inherits_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LMAAS_KEY", "secret")

    async def run() -> None:
        async with serving(tmp_path) as this:
            await this.pool.load(this.add)
            assert "secret" not in psutil.Process(this.pid(this.add)).environ().values()

    asyncio.run(run())


async def serve_until_killed(folder: Path) -> None:
    """Run a request that takes minutes; write the worker's pid."""
    async with serving(folder) as this:
        await this.pool.load(this.slow)
        call = asyncio.ensure_future(this.ask(this.slow, seconds(100)))
        await this.runs()
        sys.stdout.write(f"{this.pid(this.slow)}\n")
        sys.stdout.flush()
        await call


def test_worker_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..'];"
        "import test_pool; "
        "asyncio.run(test_pool.serve_until_killed(pathlib.Path(sys.argv[2])))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        worker = psutil.Process(int(server.stdout.readline()))
        server.kill()
    limit = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit, "the worker is still there"
        time.sleep(0.05)


def test_watching_goes_on_after_a_fault_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(tmp_path, heartbeat_s=0.05, request_timeout_s=1.0) as this:
            await this.pool.load(this.add)
            faults = 3

            def tick(self: WorkerBackend, now: float, *, late: bool) -> None:
                nonlocal faults
                if faults:
                    faults -= 1
                    raise ZeroDivisionError
                whole(self, now, late=late)

            whole = WorkerBackend.tick
            monkeypatch.setattr(WorkerBackend, "tick", tick)
            await until(lambda: not faults)
            assert not this.pool.ready()
            await until(this.pool.ready)

    asyncio.run(run())


def test_models_without_other_forms_are_never_loaded_anew(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, heartbeat_s=0.02) as this:
            plain = msgspec.structs.replace(
                this.add,
                manifest=msgspec.structs.replace(
                    this.add.manifest,
                    signature=msgspec.structs.replace(
                        this.add.manifest.signature,
                        language=LanguageSpec(
                            architecture="BertModel", context_length=8, vocabulary_size=9
                        ),
                    ),
                ),
            )
            await this.pool.load(plain)
            for number in range(5):
                # Each change of the database has forms looked at again.
                this.models.set_alias(TENANT, "add", f"alias{number}", 1)
                await asyncio.sleep(0.05)
            assert this.models.unpacked == [this.add.ref]
            assert [status.restarts for status in this.pool.status()] == [0]

    asyncio.run(run())
