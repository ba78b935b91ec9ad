"""Real training in jobs: killed and taken up again, and shared by workers."""

import asyncio
import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from job_runner import Bench
from lmaas.job import CHECKPOINTS_FOLDER, CURVES_FILE, METRICS_FILE, Job
from lmaas.jobs import process
from lmaas.placement.job import PROCESS_SUFFIX
from training_kit import FRAMEWORKS

RECIPE: dict[str, Any] = {
    "name": "bars",
    "task": "image-classification",
    "model": {"architecture": "mlp"},
    "epochs": 40,
    "batch_size": 8,
    "checkpoints": {"every_steps": 20},
    "evaluation": {"every_steps": 50},
    "augmentation": [{"name": "flip", "p": 0.5}],
    "seed": 5,
}
PATIENCE_S = 150


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of bars, lying and standing."""
    random = np.random.default_rng(0)
    for label in ("lying", "standing"):
        folder = tmp_path / "bars" / label
        folder.mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 60, (8, 8), np.uint8)
            at = int(random.integers(8))
            pixels[(at, slice(None)) if label == "lying" else (slice(None), at)] = 255
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "bars"


def add(bench: Bench, data: Path, **more: Any) -> Job:
    recipe = {**RECIPE, "data": {"train": str(data), "validation": 0.2}, **more}
    return bench.jobs.add("t", "key", "train", "bars", recipe)


async def at_step(bench: Bench, job: Job, step: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while bench.get(job).progress.get("step", 0) < step:
            assert not bench.get(job).ended, bench.get(job).error
            await asyncio.sleep(0.02)


async def told(bench: Bench, job: Job, text: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not any(text in e.message for e in bench.jobs.last_events("t", job.id, 1000)):
            assert not bench.get(job).ended, bench.get(job).error
            await asyncio.sleep(0.05)


async def ended(bench: Bench, job: Job) -> Job:
    async with asyncio.timeout(PATIENCE_S):
        while not bench.get(job).ended:
            await asyncio.sleep(0.05)
    return bench.get(job)


def weights(bench: Bench, ref: str | None) -> dict[str, str]:
    """The digests of a version's weights, and of what its source answers to the samples."""
    assert ref is not None
    files = bench.registry.resolve("t", ref).files
    return {
        file.path: file.sha256 for file in files if file.path.endswith((".safetensors", ".bin"))
    }


def last_checkpoint(bench: Bench, job: Job) -> dict[str, bytes]:
    """The weights and the optimizer's state shortly before the end."""
    folder = sorted((bench.home / "jobs" / job.id / CHECKPOINTS_FOLDER).glob("step-*"))[-1]
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def group_of(bench: Bench, job: Job) -> list[psutil.Process]:
    mark = (bench.home / "jobs" / f"{job.id}{PROCESS_SUFFIX}").read_text()
    leader = psutil.Process(int(mark.partition(":")[2].partition(",")[0]))
    return [leader, *leader.children(recursive=True)]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_run_has_the_weights_of_an_undisturbed_one(
    tmp_path: Path, data: Path, framework: str
) -> None:
    async def test() -> None:
        bench = Bench(
            tmp_path / "home", command=process.COMMAND, max_running=1, memory_bytes=4 << 30
        )
        await bench.runner.start()
        try:
            whole = await ended(bench, add(bench, data, framework=framework))
            assert whole.state == "succeeded", whole.error
            killed = add(bench, data, framework=framework)
            # Any step will do, but one after a checkpoint and not on one shows the most.
            await at_step(bench, killed, int(np.random.default_rng().integers(25, 110)))
            os.kill(group_of(bench, killed)[0].pid, signal.SIGKILL)
            found = await ended(bench, killed)
            assert found.state == "succeeded", found.error
            assert found.attempts == 2
            assert weights(bench, found.model) == weights(bench, whole.model)
            assert len(weights(bench, found.model)) >= 2
            assert last_checkpoint(bench, killed) == last_checkpoint(bench, whole)
            assert len(last_checkpoint(bench, whole)) >= 2
            left = {path.name for path in (bench.home / "jobs" / whole.id).iterdir()}
            assert left.isdisjoint({"result", "tmp", *process.DERIVED_FOLDERS}), left
            # The curves of the killed run are its own: no step twice, none from before the kill.
            folder = bench.home / "jobs" / killed.id
            with (folder / METRICS_FILE).open(newline="") as file:
                steps = [int(row["step"]) for row in csv.DictReader(file)]
            assert steps == sorted(set(steps))
            assert steps[-1] == found.progress["step"]
            version = bench.registry.resolve("t", str(found.model))
            kept = {file.path for file in version.files if file.role == "curves"}
            assert kept == {METRICS_FILE, CURVES_FILE}
        finally:
            await bench.runner.close(5)
            bench.close()

    asyncio.run(test())


def test_a_run_that_loses_a_worker_is_started_again(tmp_path: Path, data: Path) -> None:
    async def test() -> None:
        bench = Bench(tmp_path / "home", command=process.COMMAND, memory_bytes=8 << 30)
        await bench.runner.start()
        try:
            # Far more steps than it takes until the worker is killed: it is cancelled in the end.
            job = add(bench, data, distribution={"workers": 2}, epochs=20_000, early_stopping=None)
            await at_step(bench, job, 60)
            leader, worker = group_of(bench, job)
            worker.kill()
            await told(bench, job, "Goes on from step")
            assert bench.get(job).attempts == 2
            assert not leader.is_running()
            messages = [event.message for event in bench.jobs.last_events("t", job.id, 1000)]
            assert any("ended by SIGKILL" in message for message in messages), messages
            bench.jobs.cancel("t", job.id)
            assert (await ended(bench, job)).state == "cancelled"
        finally:
            await bench.runner.close(5)
            bench.close()

    asyncio.run(test())
