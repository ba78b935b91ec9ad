import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner_kit import Points, equal, learner, recipe
from lmaas.errors import Cancelled, InvalidInput
from lmaas.job import CONTROL_FILE, JobEvent
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.training import checkpoint
from lmaas.training.learners import LEARNERS
from lmaas.training.loop import Outcome, train

FRAMEWORKS = list(LEARNERS)
LONG: dict[str, Any] = {
    "epochs": 40,
    "schedule": {"name": "cosine", "warmup": 0.1},
    "checkpoints": {"every_steps": 5},
    "early_stopping": {"patience": 1000},
    "pruning": {"sparsity": 0.5, "end": 0.6},
}


def run(
    given: Recipe, folder: Path, points: Points | None = None
) -> tuple[Any, Outcome, list[JobEvent]]:
    this = learner(given)
    events: list[JobEvent] = []
    outcome = train(points or Points(), this, given, folder, events.append)
    return this, outcome, events


def test_it_learns_and_tells(tmp_path: Path) -> None:
    _, outcome, events = run(recipe(epochs=10), tmp_path)
    assert outcome.metrics["valid_accuracy"] > 0.8
    assert outcome.steps == 70
    told = [e.data for e in events if e.type == "metrics" and "valid_loss" in e.data]
    assert [data["step"] for data in told] == [7 * (i + 1) for i in range(10)]
    assert told[0]["valid_loss"] > told[-1]["valid_loss"]
    assert all(data["total_steps"] == 70 and data["samples_per_s"] > 0 for data in told)


def test_every_sample_comes_once_an_epoch_in_an_order_of_the_seed(tmp_path: Path) -> None:
    orders: list[list[int]] = []
    for seed in (1, 1, 2):
        points = Points()
        run(recipe(epochs=2, seed=seed), tmp_path / str(len(orders)), points)
        rows = np.concatenate(points.seen)
        assert sorted(rows[:100]) == sorted(rows[100:]) == list(range(100))
        assert not np.array_equal(rows[:100], rows[100:])
        orders.append(rows.tolist())
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_steps_bound_the_run(tmp_path: Path) -> None:
    assert run(recipe(steps=11, epochs=100), tmp_path)[1].steps == 11


def killed_run(framework: TrainingFramework, folder: Path, after_s: float) -> bool:
    """Go on with the long run in a process, killed after a checkpoint; whether it still ran."""
    argv = [sys.executable, __file__, framework, str(folder)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"saved\n"
        time.sleep(after_s)
        running = child.poll() is None
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    return running


# jobs/test_training_jobs.py kills the others' runs, as jobs.
@pytest.mark.parametrize("framework", ["pytorch"])
def test_a_killed_run_goes_on_bit_for_bit(framework: TrainingFramework, tmp_path: Path) -> None:
    given = recipe(framework, **LONG)
    whole, expected, _ = run(given, tmp_path / "whole")
    chance = random.Random()
    kills = sum(
        killed_run(framework, tmp_path / "killed", chance.uniform(0.0, 0.1)) for _ in range(3)
    )
    assert kills
    resumed, outcome, events = run(given, tmp_path / "killed")
    assert any("Goes on from step" in event.message for event in events)
    assert equal(whole.weights(), resumed.weights())
    assert outcome.metrics == expected.metrics
    assert outcome.best_step == expected.best_step


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    given = recipe(checkpoints={"every_steps": 3, "keep": 3}, epochs=2)
    whole, _, _ = run(given, tmp_path)
    found = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in found] == [f"step-{s:08d}" for s in (6, 9, 12)]
    weights = max(found[-1].iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (found[-2] / "digests.json").unlink()
    assert checkpoint.newest(tmp_path) == found[0]
    resumed, _, events = run(given, tmp_path)
    assert "Goes on from step 6 of 14." in [event.message for event in events]
    assert equal(whole.weights(), resumed.weights())


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("room", [0.01, 0.9])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    framework: TrainingFramework, tmp_path: Path, room: float
) -> None:
    given = recipe(framework, steps=6, checkpoints={"every_steps": 2})
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    events: list[JobEvent] = []

    def heard(event: JobEvent) -> None:
        events.append(event)
        if event.type == "checkpoint":
            files = (tmp_path / "checkpoints" / "step-00000002").iterdir()
            room_bytes = int(room * max(path.stat().st_size for path in files))
            resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, bounds[1]))

    try:
        outcome = train(Points(), learner(given), given, tmp_path, heard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert outcome.steps == 6
    (warning,) = [event for event in events if event.level == "warn"]
    assert "step 4" in warning.message
    assert "The one of step 2 stays" in warning.message
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert checkpoint.newest(tmp_path)


def test_pause_writes_a_checkpoint_and_the_next_run_goes_on(tmp_path: Path) -> None:
    given = recipe(epochs=2)
    whole, _, _ = run(given, tmp_path / "whole")
    folder = tmp_path / "paused"
    folder.mkdir()
    (folder / CONTROL_FILE).write_text("pause\n")
    _, outcome, _ = run(given, folder)
    assert outcome.paused
    assert outcome.steps == 1
    (folder / CONTROL_FILE).unlink()
    resumed, outcome, _ = run(given, folder)
    assert not outcome.paused
    assert equal(whole.weights(), resumed.weights())


def test_cancel_ends_it(tmp_path: Path) -> None:
    (tmp_path / CONTROL_FILE).write_text("cancel")
    with pytest.raises(Cancelled):
        run(recipe(), tmp_path)


def test_a_loss_that_is_no_number_names_step_batch_and_rate(tmp_path: Path) -> None:
    points = Points()
    points.x[37] = np.nan
    place = np.random.default_rng([0, 0]).permutation(100).tolist().index(37)
    place = next(i for i in range(1, 8) if place < 100 * i // 7)
    told = rf"step {place} \(batch {place} of epoch 1\) at learning rate 0.01"
    with pytest.raises(InvalidInput, match=told):
        run(recipe(), tmp_path, points)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_accumulating_changes_nothing(framework: TrainingFramework, tmp_path: Path) -> None:
    results = []
    for parts in (1, 4):
        given = recipe(framework, accumulate=parts, epochs=2)
        this = learner(given, plain=True)
        train(Points(), this, given, tmp_path / str(parts), lambda _: None)
        results.append(this.weights())
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "cosine", "warmup": 3, "cycles": 2, "end": 0.1},
        {"name": "one-cycle", "warmup": 0.2},
        {"name": "step", "every_steps": 4, "gamma": 0.5},
    ],
    ids=lambda given: given["name"],
)
def test_the_rate_of_every_step_is_the_schedules(
    framework: TrainingFramework, schedule: dict[str, Any], tmp_path: Path
) -> None:
    from lmaas.training.schedule import factor

    rates: list[float] = []
    given = recipe(framework, schedule=schedule)
    this = learner(given)
    step = this.step

    def noted(feeds: Any, *, learning_rate: float, weight: float) -> float:
        rates.append(learning_rate)
        return step(feeds, learning_rate=learning_rate, weight=weight)

    this.step = noted  # type: ignore[method-assign]
    train(Points(), this, given, tmp_path, lambda _: None)
    assert rates == [0.01 * factor(given.schedule, i, 21) for i in range(21)]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_pruning_reaches_its_sparsity(framework: TrainingFramework, tmp_path: Path) -> None:
    from lmaas.training.pruning import sparsity_of

    # Of the first layer's six inputs, two make no whole group of four.
    two_of_four = (16 * 2 + 3 * 8) / (16 * 6 + 3 * 16)
    rules = (({"sparsity": 0.7}, 0.7), ({"method": "2:4"}, two_of_four))
    for rule, share in rules:
        this, outcome, _ = run(recipe(framework, epochs=10, pruning=rule), tmp_path / str(share))
        assert sparsity_of(this).share == pytest.approx(share, abs=0.01)
        assert outcome.metrics["valid_accuracy"] > 0.8


if __name__ == "__main__":
    made = recipe(sys.argv[1], **LONG)  # type: ignore[arg-type]

    def heard(event: JobEvent) -> None:
        if event.type == "checkpoint":
            sys.stdout.write("saved\n")
            sys.stdout.flush()

    train(Points(), learner(made), made, Path(sys.argv[2]), heard)
