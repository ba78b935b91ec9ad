import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from learner_kit import MODELS, PLAIN, Points, equal, recipe
from lmaas.errors import InvalidInput, Unavailable
from lmaas.job import CONTROL_FILE, JobEvent
from lmaas.recipe import TrainingFramework
from lmaas.training import distributed, learners
from lmaas.training.base import Group, Learner
from lmaas.training.group import ALONE
from lmaas.training.loop import Outcome, train

FRAMEWORKS = list(learners.LEARNERS)
GIVEN: dict[str, Any] = {
    "epochs": 4,
    "accumulate": 2,
    "clip_norm": 1.0,
    "schedule": {"name": "plateau", "patience": 1, "gamma": 0.5},
    "early_stopping": {"patience": 100},
}
TOLERANCE = 1e-4
"""How far losses and weights of several workers may be from those of one, relatively."""
DIES_AT = 9

Trained = tuple[Learner, Outcome, list[JobEvent]]


class Mortal(Points):
    """Points whose worker is killed when it asks for its batch of step `DIES_AT`."""

    def feed(self, *args: Any, **named: Any) -> Any:
        if len(self.seen) == DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().feed(*args, **named)


def work(
    framework: TrainingFramework, folder: Path, given: dict[str, Any], group: Group, problem: Points
) -> Trained:
    """What each worker does: `plain` networks are those without dropout and normalisation."""
    more = dict(given)
    models = PLAIN if more.pop("plain") else MODELS
    made = recipe(framework, **more)
    this = learners.get(framework)(models[framework](), problem.loss, made, group)
    events: list[JobEvent] = []
    return this, train(problem, this, made, folder, events.append, group), events


def together(
    framework: TrainingFramework,
    folder: Path,
    workers: int,
    given: dict[str, Any],
    problem: str = "Points",
) -> Trained:
    """A run of several workers, of which this process is the first."""
    command = [sys.executable, __file__, framework, str(folder), json.dumps(given), problem]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        with distributed.lead(workers, command) as group:
            return work(framework, folder, given, group, Points())
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def losses(events: list[JobEvent]) -> list[float]:
    return [e.data["valid_loss"] for e in events if "valid_loss" in e.data]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_workers_reach_the_loss_curve_of_one(framework: TrainingFramework, tmp_path: Path) -> None:
    given = GIVEN | {"plain": True}
    one, alone, curve = work(framework, tmp_path / "one", given, ALONE, Points())
    this, outcome, events = together(framework, tmp_path / "two", 2, given)
    assert len(losses(events)) == 4
    np.testing.assert_allclose(losses(events), losses(curve), rtol=TOLERANCE)
    assert outcome.metrics == pytest.approx(alone.metrics, rel=TOLERANCE)
    for name, value in one.weights().items():
        np.testing.assert_allclose(this.weights()[name], value, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_paused_run_of_workers_goes_on_bit_for_bit(
    framework: TrainingFramework, tmp_path: Path
) -> None:
    given = {"plain": False, "epochs": 2}
    whole, _, _ = together(framework, tmp_path / "whole", 2, given)
    folder = tmp_path / "paused"
    folder.mkdir()
    (folder / CONTROL_FILE).write_text("pause")
    assert together(framework, folder, 2, given)[1].paused
    (folder / CONTROL_FILE).unlink()
    resumed, outcome, _ = together(framework, folder, 2, given)
    assert not outcome.paused
    assert equal(whole.weights(), resumed.weights())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_worker_ends_the_run_with_its_name(
    framework: TrainingFramework, tmp_path: Path
) -> None:
    given = {"plain": True, "epochs": 1000}
    with pytest.raises(Unavailable, match="Worker 2 of 2 was ended by SIGKILL"):
        together(framework, tmp_path, 2, given, "Mortal")


def test_workers_end_with_the_one_that_leads(tmp_path: Path) -> None:
    given = json.dumps({"plain": True, "epochs": 100_000})
    argv = [sys.executable, __file__, "pytorch", str(tmp_path), given, "lead"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    leader = subprocess.Popen(argv, env=environ, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "checkpoints").exists():
            assert leader.poll() is None
            time.sleep(0.05)
        (member,) = psutil.Process(leader.pid).children()
    finally:
        leader.kill()
        leader.wait()
    member.wait(60)
    assert not member.is_running()


def test_a_loss_that_is_no_number_ends_all_workers(tmp_path: Path) -> None:
    given = {"plain": True, "optimizer": {"name": "sgd", "learning_rate": 1e30}, "epochs": 50}
    with pytest.raises(InvalidInput, match="learning rate 1e"):
        together("pytorch", tmp_path, 2, given)


@pytest.mark.parametrize("size", [1, 3, 1024, 1025, 100_003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_is_everyones_and_the_same_for_all(size: int, dtype: type) -> None:
    import socket

    pairs = [socket.socketpair() for _ in range(2)]
    memory = os.memfd_create("test")
    groups = [distributed.Workers(0, 3, [ours for ours, _ in pairs], memory)]
    groups += [distributed.Workers(i, 3, [t], memory) for i, (_, t) in enumerate(pairs, 1)]
    random = np.random.default_rng(size)
    rounds: list[list[np.ndarray]] = [
        [random.standard_normal(size).astype(dtype) for _ in groups] for _ in range(3)
    ]
    expected = [arrays[0] + arrays[1] + arrays[2] for arrays in rounds]

    def add(group: distributed.Workers) -> None:
        for arrays in rounds:
            group.sum(arrays[group.rank])

    threads = [threading.Thread(target=add, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for arrays, total in zip(rounds, expected, strict=True):
        for array in arrays:
            np.testing.assert_array_equal(array, total)
    for pair in pairs:
        for end in pair:
            end.close()
    os.close(memory)


if __name__ == "__main__":
    name, place, said, role = sys.argv[1:]
    if role == "lead":
        together(name, Path(place), 2, json.loads(said))  # type: ignore[arg-type]
    else:
        made = {"Points": Points, "Mortal": Mortal}[role]()
        with distributed.join() as joined:
            work(name, Path(place), json.loads(said), joined, made)  # type: ignore[arg-type]
