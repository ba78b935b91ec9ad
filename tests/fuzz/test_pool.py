"""The pool under any order of loads, calls, kills, stops and alias moves.

Every call ends with an answer or an error of ours, nothing that was asked is held at the end, and
the plan of memory is never above the budget.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fuzz.effort import effort
from ir_models import STEPS_PER_S, Models, add_one, slow
from lmaas.config import Settings
from lmaas.errors import LMaaSError
from lmaas.serving.metrics import Metrics
from lmaas.serving.plan import needed_bytes
from lmaas.serving.pool import Pool
from lmaas.types import JSON, TENANT, ModelVersion, Payload, Signature

ANSWER_S = 60
NAMES = ("add:1", "add:2", "slow:1", "add@live")


def add_two(folder: Path) -> Signature:
    """y = x + 2: what a version answers tells which one it was."""
    return add_one(folder, 2.0)


class PoolMachine(RuleBasedStateMachine):
    """A pool with room for two of its three versions; its loop goes on between steps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lmaas-pool-"))
        self.models = Models(self.folder)
        for name, build in (("add", add_one), ("add", add_two), ("slow", slow)):
            self.models.make(name, build)
        self.models.set_alias(TENANT, "add", "live", 1)
        budget = _needed(self.models.resolve(TENANT, "add:1")) * 5 // 2
        settings = Settings(
            home=str(self.folder / "home"), heartbeat_s=0.2, memory_budget_bytes=budget
        )
        self.budget = budget
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.pool = Pool(settings, self.models, Metrics())
        self.asked: list[asyncio.Task[None]] = []
        self.run(self.pool.start())

    def run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(doing, ANSWER_S))

    def resolve(self, ref: str) -> ModelVersion:
        return self.models.resolve(TENANT, ref)

    async def ask(self, version: ModelVersion, amount: int) -> None:
        """One call; what it may not do fails the task."""
        values = [[amount]] if version.name == "slow" else [[amount] * 4]
        payload = Payload(media_type=JSON, body=json.dumps({"inputs": values}).encode())
        with contextlib.suppress(LMaaSError):
            answer = await self.pool.call(version, payload)
            wanted = [[amount]] if version.name == "slow" else [[amount + version.version] * 4]
            assert json.loads(answer.body)["outputs"]["y"] == wanted

    @rule(
        ref=st.sampled_from(NAMES),
        amount=st.integers(0, STEPS_PER_S // 20),
        count=st.integers(1, 4),
    )
    def call(self, ref: str, amount: int, count: int) -> None:
        version = self.resolve(ref)
        self.asked += [self.loop.create_task(self.ask(version, amount + i)) for i in range(count)]

    @rule(ref=st.sampled_from(NAMES))
    def load(self, ref: str) -> None:
        async def load() -> None:
            with contextlib.suppress(LMaaSError):
                await self.pool.load(self.resolve(ref))

        self.asked.append(self.loop.create_task(load()))

    @rule(ref=st.sampled_from([*NAMES, "add"]))
    def stop(self, ref: str) -> None:
        async def stop() -> None:
            with contextlib.suppress(LMaaSError):
                await self.pool.stop(TENANT, ref)

        self.asked.append(self.loop.create_task(stop()))

    @rule(number=st.integers(0, 3), how=st.sampled_from([signal.SIGKILL, signal.SIGSTOP]))
    def kill(self, number: int, how: signal.Signals) -> None:
        pids = [status.pid for status in self.pool.status() if status.pid]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[number % len(pids)], how)

    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        if self.asked:
            self.asked[number % len(self.asked)].cancel()

    @rule(version=st.integers(1, 2))
    def move_alias(self, version: int) -> None:
        self.models.set_alias(TENANT, "add", "live", version)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def the_plan_fits(self) -> None:
        assert sum(worker.planned_bytes for worker in self.pool._loaded.all()) <= self.budget

    def teardown(self) -> None:
        try:
            ended = self.run(asyncio.wait(self.asked)) if self.asked else (set(), set())
            assert not ended[1]
            for task in ended[0]:
                if not task.cancelled() and task.exception() is not None:
                    raise task.exception()
            self.run(asyncio.sleep(0.05))
            assert [worker for worker in self.pool._loaded.all() if worker.depth] == []
        finally:
            self.run(self.pool.close(0))
            self.models.close()
            self.run(asyncio.sleep(0.1))
            self.runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def _needed(version: ModelVersion) -> int:
    return needed_bytes(version.compiled_bytes)


TestPool = PoolMachine.TestCase
TestPool.settings = effort(2, steps=8, share=0.02)
