"""A table of which nothing is said: models are compared, and the best or a mixture is served."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas.errors import InvalidInput
from lmaas.job import CONTROL_FILE, RESULT_FOLDER, JobEvent
from lmaas.recipe import Recipe, recipe_of
from lmaas.training import problems
from lmaas.training import run as training
from lmaas.training.base import Comparing
from lmaas.types import JSON, Payload
from training_kit import run, served, verified

ROWS = 240


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a day sells: lines, steps, names and gaps, so that no kind of model has it all."""
    random = np.random.default_rng(3)
    x, z = random.normal(size=(2, ROWS))
    shop = random.choice(["a", "b", "c", "d"], ROWS)
    days = np.datetime64("2023-01-02") + random.integers(0, 700, ROWS)
    warm = np.array([6 <= day.month <= 8 for day in days.tolist()])
    y = 2 * x + np.where(z > 0.3, 3, 0) + (shop == "b") + 2 * warm + random.normal(size=ROWS) / 4
    rows = [
        f"{a:.4f},{'' if i % 9 == 0 else f'{b:.4f}'},{s},{d},{'high' if v > 1 else 'low'},{v:.4f}"
        for i, (a, b, s, d, v) in enumerate(zip(x, z, shop, days, y, strict=True))
    ]
    path = tmp_path_factory.mktemp("stack") / "sales.csv"
    path.write_text("\n".join(["x,z,shop,day,level,sold", *rows]))
    return path


def recipe(table: Path, target: str, **more: Any) -> Recipe:
    other = {"level": "sold", "sold": "level"}[target]
    data = {
        "train": str(table),
        "validation": 0.2,
        "test": 0.2,
        "columns": {"target": target},
        "options": {"ignore": [other]},
    }
    return recipe_of({"name": "sales", "task": "tabular", "data": data, **more})


@pytest.mark.parametrize("target", ["level", "sold"])
def test_what_wins_is_served_as_it_was_measured(table: Path, tmp_path: Path, target: str) -> None:
    events: list[JobEvent] = []
    few = {"architecture": "stack", "options": {"folds": 2}}
    assert run(recipe(table, target, model=few), tmp_path, events)
    manifest = verified(tmp_path / RESULT_FOLDER)
    assert (manifest.framework, manifest.engine) == ("stack", "openvino")
    metric, bound = {"level": ("test_accuracy", 0.8), "sold": ("test_r2", 0.8)}[target]
    assert manifest.metrics[metric] > bound
    assert manifest.metrics[metric.replace("test", "valid")] > bound - 0.1
    (told,) = [event.message for event in events if event.message.startswith("Compared by")]
    assert "wins" in told
    for name in ("trees", "random-trees", "linear", "net"):
        assert name in told
    assert "Compared by" in manifest.card.replace("\\", "")
    # The held-out rows, sent as they stand in the file, get the answers that were measured.
    lines = table.read_text().splitlines()
    names = lines[0].split(",")
    problem = problems.open(recipe(table, target, model=few), tmp_path / "again")
    rows = problem._splits.parts["test"].rows.tolist()  # type: ignore[attr-defined]
    sent = [dict(zip(names, lines[1 + row].split(","), strict=True)) for row in rows]
    body = json.dumps({"inputs": sent}).encode()
    answers = served(manifest, tmp_path / RESULT_FOLDER, Payload(media_type=JSON, body=body))
    if target == "level":
        right = [a[0]["label"] == row[target] for a, row in zip(answers, sent, strict=True)]
        assert np.mean(right) == pytest.approx(manifest.metrics["test_accuracy"])
    else:
        off = [a["value"] - float(row[target]) for a, row in zip(answers, sent, strict=True)]
        rmse = float(np.sqrt(np.mean(np.square(off))))
        assert rmse == pytest.approx(manifest.metrics["test_rmse"], rel=1e-4)


def test_paused_between_two_candidates_it_ends_as_undisturbed(table: Path, tmp_path: Path) -> None:
    given = recipe(
        table,
        "sold",
        model={"architecture": "stack", "options": {"folds": 2, "members": ["trees", "linear"]}},
    )
    whole: list[JobEvent] = []
    assert run(given, tmp_path / "whole", whole)
    folder = tmp_path / "paused"
    events: list[JobEvent] = []
    folder.mkdir()
    (folder / CONTROL_FILE).write_text("pause")
    assert not run(given, folder, events)
    (folder / CONTROL_FILE).unlink()
    assert run(given, folder, events)
    assert any("Goes on from step 1 of 4" in event.message for event in events)
    one, other = (
        (each / RESULT_FOLDER / "source" / "stack.json").read_bytes()
        for each in (tmp_path / "whole", folder)
    )
    assert one == other
    # The first checkpoint is a model as well, without what was fitted later.
    exported = tmp_path / "exported"
    shutil.copytree(
        next((folder / "checkpoints").glob("step-*")), exported / "checkpoints" / "step-00000001"
    )
    resolved = next(e.data["recipe"] for e in events if e.type == "resolved")
    training.export(recipe_of(resolved), exported, "job-1", base=None)
    assert verified(exported / RESULT_FOLDER).metrics["test_rmse"] > 0
    metrics = [verified(each / RESULT_FOLDER).metrics for each in (tmp_path / "whole", folder)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("more", "architecture"),
    [
        ({}, "stack"),
        ({"framework": "stack"}, "stack"),
        ({"epochs": 3}, "mlp"),
        ({"framework": "pytorch"}, "mlp"),
        ({"model": {"options": {"hidden": [8]}}}, "mlp"),
        ({"framework": "lightgbm"}, "boosted-trees"),
    ],
)
def test_what_auto_takes(table: Path, tmp_path: Path, more: Any, architecture: str) -> None:
    problem = problems.open(recipe(table, "sold", **more), tmp_path)
    assert problem.model.architecture == architecture  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"epochs": 3, "model": {"architecture": "stack"}}, "cannot honour this epochs"),
        ({"epochs": 3, "framework": "stack"}, "framework stack trains stack"),
        ({"framework": "pytorch", "model": {"architecture": "stack"}}, "no other does"),
        ({"model": {"architecture": "stack", "options": {"members": ["forest"]}}}, "forest"),
    ],
)
def test_what_a_stack_cannot_honour_is_refused(
    table: Path, tmp_path: Path, more: Any, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        run(recipe(table, "sold", **more), tmp_path, [])


def test_a_table_too_small_to_compare_on_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "few.csv"
    data.write_text("x,y\n1,2.5\n2,3.5\n3,4.5\n")
    choice = {"train": str(data), "columns": {"target": "y"}, "options": {"kind": "regression"}}
    with pytest.raises(InvalidInput, match="3 rows are too few"):
        problems.open(recipe_of({"name": "x", "task": "tabular", "data": choice}), tmp_path)


def test_a_candidate_far_behind_is_fitted_once(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    x = random.uniform(-3, 3, (200, 2))
    y = np.sign(x[:, 0] * x[:, 1]) * 5 + random.normal(size=200) / 10
    data = tmp_path / "x.csv"
    rows = [f"{a:.4f},{b:.4f},{v:.4f}" for (a, b), v in zip(x, y, strict=True)]
    data.write_text("\n".join(["a,b,y", *rows]))
    given = recipe_of(
        {
            "name": "x",
            "task": "tabular",
            "data": {"train": str(data), "columns": {"target": "y"}},
            "model": {
                "architecture": "stack",
                "options": {"members": ["trees", "linear"], "folds": 3},
            },
        }
    )
    problem: Any = problems.open(given, tmp_path / "job")
    learner = problem.learner(None, training.resolve(given, problem))
    for _ in range(6):
        assert learner.step([], learning_rate=1, weight=1) > 0
    found: object = learner
    assert isinstance(found, Comparing)
    assert "linear" in learner.verdict()
    assert "first fold, no further" in learner.verdict()
    assert [member.name for member in learner.model.members] == ["trees"]
    assert len(learner.model.members[0].parts) == 3
