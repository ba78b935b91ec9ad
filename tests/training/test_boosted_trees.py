"""Boosted trees as a run: learned, stopped early, killed and resumed, packaged, trained on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas import frameworks
from lmaas.errors import Cancelled, InvalidInput
from lmaas.job import CONTROL_FILE, RESULT_FOLDER, JobEvent
from lmaas.recipe import EarlyStopping, Recipe, recipe_of
from lmaas.runtime import verify
from lmaas.training import run as training
from lmaas.types import JSON, Manifest, Payload
from training_kit import served

ROWS = 900
TREES: dict[str, Any] = {"architecture": "boosted-trees", "options": {"leaves": 8}}


def write_table(path: Path, rows: int = ROWS) -> Path:
    """Loans: whether one is paid back and in how many days, from numbers with gaps and names."""
    chance = np.random.default_rng(0)
    income = chance.lognormal(8, 0.5, rows)
    branch = chance.choice([f"b{i}" for i in range(30)], rows)
    known = chance.random(rows) > 0.2
    good = np.array([int(name[1:]) % 3 == 0 for name in branch])
    late = (np.where(known, income, 5000) < 2500) ^ good
    lines = ["loan,income,branch,late,days"]
    for i in range(rows):
        told = f"{income[i]:.2f}" if known[i] else ""
        days = 30 + 40 * good[i] + income[i] / 500 * known[i]
        lines.append(f"L{i},{told},{branch[i]},{'yes' if late[i] else 'no'},{days:.3f}")
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("loans") / "loans.csv")


def recipe(data: Path, target: str = "late", **told: Any) -> Recipe:
    other = {"late": "days", "days": "late"}[target]
    given: dict[str, Any] = {
        "name": "loans",
        "task": "tabular",
        "data": {
            "train": str(data),
            "validation": 0.25,
            "columns": {"target": target},
            "options": {"ignore": [other]},
        },
        "model": TREES,
        "epochs": 40,
    }
    return recipe_of(given | told)


def run(given: Recipe, folder: Path, base: Path | None = None) -> list[JobEvent]:
    events: list[JobEvent] = []
    folder.mkdir(parents=True, exist_ok=True)
    assert training.run(given, folder, "job-1", events.append, base=base)
    return events


def trees(folder: Path) -> str:
    return (folder / RESULT_FOLDER / "source" / "model.txt").read_text("utf-8")


def manifest(folder: Path) -> Manifest:
    """The verified manifest of a run's package."""
    reply = verify.run(
        msgspec.json.encode(verify.VerifyRequest(folder=str(folder / RESULT_FOLDER)))
    )
    verified = msgspec.json.decode(reply, type=verify.Reply)
    assert verified.parity.passed("f32")
    assert verified.parity.max_abs_error("f32") <= 1e-5
    # In half the digits rows would end in other leaves: never served so.
    assert not [check for check in verified.parity.checks if check.precision == "bf16"]
    return verified.manifest


def ask(folder: Path, rows: Any) -> Any:
    body = json.dumps({"inputs": rows}).encode()
    package = folder / RESULT_FOLDER
    return served(manifest(folder), package, Payload(media_type=JSON, body=body))


def resolved(events: list[JobEvent]) -> dict[str, Any]:
    found: dict[str, Any] = next(e.data["recipe"] for e in events if e.type == "resolved")
    return found


def test_classes_are_learned_and_served(loans: Path, tmp_path: Path) -> None:
    events = run(recipe(loans), tmp_path)
    told = resolved(events)
    assert (told["framework"], told["batch_size"], told["epochs"]) == ("lightgbm", 675, 40)
    assert told["optimizer"]["learning_rate"] == 0.1
    assert told["model"]["options"]["leaf_samples"] == 20
    found = manifest(tmp_path)
    assert found.metrics["valid_accuracy"] > 0.95
    assert found.metrics["valid_auc"] > 0.98
    assert found.framework == "lightgbm"
    assert found.signature.inputs[0].shape == (-1, 2)
    rows = [
        {"income": 9000, "branch": "b3"},
        {"income": None, "branch": "b4"},
        {"income": 1000, "branch": "b4"},
    ]
    answers = ask(tmp_path, rows)
    assert [answer[0]["label"] for answer in answers] == ["yes", "no", "yes"]
    assert ask(tmp_path, {"income": 1e300, "branch": "a new one"})[0]["label"] in ("yes", "no")


def test_every_round_is_told(loans: Path, tmp_path: Path) -> None:
    events = run(recipe(loans), tmp_path)
    told = [e.data for e in events if e.type == "metrics" and "valid_loss" in e.data]
    assert [data["step"] for data in told] == list(range(1, 41))
    for name in ("train_loss", "valid_loss"):
        assert told[-1][name] < told[0][name] / 2
    assert told[-1]["valid_loss"] == pytest.approx(told[-1]["valid_log_loss"], rel=1e-5)
    assert {"valid_accuracy", "valid_macro_f1", "valid_auc"} < told[0].keys()


def test_a_number_is_learned_and_served_in_its_units(loans: Path, tmp_path: Path) -> None:
    run(recipe(loans, "days", epochs=100), tmp_path)
    assert manifest(tmp_path).metrics["valid_r2"] > 0.95
    assert ask(tmp_path, {"income": 3000, "branch": "b6"})["value"] == pytest.approx(76, abs=4)


def test_three_classes(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal(600)
    lines = [f"{v:.5f},{['low', 'mid', 'top'][int(np.digitize(v, [-0.4, 0.4]))]}" for v in x]
    data = tmp_path / "x.csv"
    data.write_text("\n".join(["x,target", *lines]), "utf-8")
    given: dict[str, Any] = {"train": str(data), "validation": 0.2, "test": 0.2}
    run(recipe_of({**BARE, "data": given}), tmp_path / "job")
    found = manifest(tmp_path / "job")
    assert found.metrics["test_accuracy"] > 0.95
    assert found.metrics["test_loss"] == pytest.approx(found.metrics["test_log_loss"], rel=1e-4)
    answers = ask(tmp_path / "job", [{"x": -1}, {"x": 0}, {"x": 1}])
    assert [answer[0]["label"] for answer in answers] == ["low", "mid", "top"]


BARE: dict[str, Any] = {"name": "x", "task": "tabular", "model": TREES, "epochs": 20}


def test_stops_early_and_keeps_the_best_rounds(tmp_path: Path) -> None:
    x, noise = np.random.default_rng(2).standard_normal((2, 300))
    data = tmp_path / "noisy.csv"
    lines = [f"{a:.4f},{'yes' if a + 1.5 * b > 0 else 'no'}" for a, b in zip(x, noise, strict=True)]
    data.write_text("\n".join(["x,target", *lines]), "utf-8")
    rule = {"patience": 5, "min_delta": 0.0}
    given = recipe_of({**BARE, "data": {"train": str(data), "validation": 0.3}, "epochs": 300})
    given = msgspec.structs.replace(given, early_stopping=msgspec.convert(rule, EarlyStopping))
    events = run(given, tmp_path / "job")
    losses = [e.data["valid_loss"] for e in events if "valid_loss" in e.data]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 5 < 300
    assert f"The model has the weights of step {best}." in " ".join(e.message for e in events)
    assert trees(tmp_path / "job").count("\nTree=") == best
    assert manifest(tmp_path / "job").metrics["valid_loss"] == pytest.approx(losses[best - 1])


LONG: dict[str, Any] = {
    "epochs": 120,
    "schedule": {"name": "cosine", "warmup": 0.1},
    "checkpoints": {"every_steps": 4},
    "early_stopping": {"patience": 1000},
    "model": {**TREES, "options": {"leaves": 8, "column_share": 0.5}},
    "seed": 3,
}


@pytest.mark.parametrize("target", ["late", "days"])
def test_a_killed_run_goes_on_bit_for_bit(loans: Path, target: str, tmp_path: Path) -> None:
    whole = run(recipe(loans, target, **LONG), tmp_path / "whole")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for _ in range(2):
        argv = [sys.executable, __file__, str(loans), target, str(tmp_path / "killed")]
        child = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"saved\n"
            time.sleep(random.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
    again = run(recipe(loans, target, **LONG), tmp_path / "killed")
    assert any("Goes on from step" in event.message for event in again)
    assert trees(tmp_path / "killed") == trees(tmp_path / "whole")
    last = [[e.data for e in events if "valid_loss" in e.data][-1] for events in (whole, again)]
    for name in ("train_loss", "valid_loss", "learning_rate"):
        assert last[0][name] == last[1][name]


def test_the_seed_draws_the_columns(loans: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        given = msgspec.structs.replace(recipe(loans, **LONG), seed=seed, epochs=10)
        run(given, tmp_path / str(number))
        made.append(trees(tmp_path / str(number)))
    assert made[0] == made[1] != made[2]


def test_pause_and_cancel(loans: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(recipe(loans), whole)
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / CONTROL_FILE).write_text("pause", "utf-8")
    assert not training.run(recipe(loans), folder, None, lambda _: None)
    assert list((folder / "checkpoints").glob("step-*"))
    (folder / CONTROL_FILE).write_text("cancel", "utf-8")
    with pytest.raises(Cancelled):
        run(recipe(loans), folder)
    (folder / CONTROL_FILE).unlink()
    run(recipe(loans), folder)
    assert trees(folder) == trees(whole)


def test_a_schedule_sets_each_rounds_learning_rate(loans: Path, tmp_path: Path) -> None:
    run(recipe(loans, schedule={"name": "step", "every_steps": 5, "gamma": 0.5}), tmp_path)
    found = [line for line in trees(tmp_path).splitlines() if line.startswith("shrinkage=")]
    rates = [float(line.partition("=")[2]) for line in found[1:]]
    assert rates == pytest.approx([0.1 * 0.5 ** (step // 5) for step in range(1, 40)], rel=1e-4)


def test_training_goes_on_from_a_base(loans: Path, tmp_path: Path) -> None:
    run(recipe(loans, epochs=20), tmp_path / "first")
    given = recipe(loans, epochs=5, model={"base": "loans"})
    base = tmp_path / "first" / RESULT_FOLDER
    run(given, tmp_path / "more", base)
    first, more = trees(tmp_path / "first"), trees(tmp_path / "more")
    assert more.count("\nTree=") == 25
    assert more.split("\nTree=")[1:20] == first.split("\nTree=")[1:20]
    other = tmp_path / "other.csv"
    other.write_text(loans.read_text("utf-8").replace(",no,", ",never,"), "utf-8")
    with pytest.raises(InvalidInput, match="no last layer"):
        run(recipe(other, epochs=5, model={"base": "loans"}), tmp_path / "refused", base)


@pytest.mark.parametrize(
    ("option", "param"),
    [
        ({"pruning": {"sparsity": 0.5}}, "pruning"),
        ({"augmentation": [{"name": "flip"}]}, "augmentation"),
        ({"adapter": {}}, "adapter"),
        ({"method": {"type": "dpo"}}, "method"),
        ({"precision": "bf16"}, "precision"),
        ({"batch_size": 32}, "batch_size"),
        ({"accumulate": 2}, "accumulate"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"distribution": {"workers": 2}}, "distribution"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name"),
        ({"optimizer": {"weight_decay": 0.1}}, "optimizer.weight_decay"),
        ({"model": {**TREES, "options": {"rows_share": 0.5}}}, "model.options"),
        ({"framework": "pytorch"}, "framework"),
        ({"framework": "lightgbm", "model": {"architecture": "mlp"}}, "framework"),
    ],
)
def test_what_trees_cannot_honour_is_refused_by_name(
    loans: Path, option: dict[str, Any], param: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(recipe(loans, **option), tmp_path)
    assert caught.value.param == param
    assert not (tmp_path / RESULT_FOLDER).exists()


def test_a_learning_rate_that_is_too_high_is_told(loans: Path, tmp_path: Path) -> None:
    given = recipe(loans, "days", optimizer={"learning_rate": 1e200})
    with pytest.raises(InvalidInput, match=r"The loss is (inf|nan) at step \d+"):
        run(given, tmp_path)


def test_a_table_too_small_to_split_gives_the_mean(tmp_path: Path) -> None:
    data = tmp_path / "small.csv"
    data.write_text("x,target\n1,1.5\n2,2.5\n3,3.5\n", "utf-8")
    whole = {"architecture": "boosted-trees", "options": {"leaf_samples": 20}}
    given = {**BARE, "model": whole, "data": {"train": str(data), "validation": 0.0}}
    run(recipe_of(given), tmp_path / "job")
    assert ask(tmp_path / "job", {"x": 7})["value"] == pytest.approx(2.5)


def test_lightgbm_alone_predicts_the_same(loans: Path, tmp_path: Path) -> None:
    run(recipe(loans), tmp_path)
    booster = frameworks.get("lightgbm").load(tmp_path / RESULT_FOLDER / "source")
    columns = json.loads((tmp_path / RESULT_FOLDER / "compiled" / "columns.json").read_text())
    income, branch = columns["columns"]
    row = [(2000 - income["mean"]) / income["std"], branch["values"].index("b9")]
    share = float(booster.predict(np.array([row], np.float32))[0])
    answer = ask(tmp_path, {"income": 2000, "branch": "b9"})
    scores = {label["label"]: label["score"] for label in answer}
    assert scores["yes"] == pytest.approx(share, abs=1e-5)


if __name__ == "__main__":

    def tell(event: JobEvent) -> None:
        if event.type == "checkpoint":
            sys.stdout.write("saved\n")
            sys.stdout.flush()

    target, folder = sys.argv[2], Path(sys.argv[3])
    folder.mkdir(exist_ok=True)
    training.run(recipe(Path(sys.argv[1]), target, **LONG), folder, None, tell)
