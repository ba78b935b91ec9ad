"""Tables: mixed columns with missing values learned in every framework, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.recipe import DataChoice, Recipe, TrainingFramework
from lmaas.tasks.tabular.training.problem import Tabular
from lmaas.training import problems
from lmaas.training.base import Feed, Problem
from lmaas.types import JSON, Payload
from training_kit import FRAMEWORKS, everything, learn, packaged, served

ROWS = 600


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up table: whether a patient stays, from a number with gaps, a name and a constant."""
    random = np.random.default_rng(0)
    age = random.uniform(20, 90, ROWS)
    ward = random.choice(["heart", "bone", "eye"], ROWS)
    stays = (age > 60) ^ (ward == "eye")
    lines = ["id,age,ward,clinic,stays,days"]
    for i in range(ROWS):
        told = "" if i % 10 == 0 else f"{age[i]:.2f}"
        days = 3 * (ward[i] == "heart") + age[i] / 10
        lines.append(f"p{i},{told},{ward[i]},north,{'yes' if stays[i] else 'no'},{days:.3f}")
    path = tmp_path_factory.mktemp("table") / "patients.csv"
    path.write_text("\n".join(lines))
    return path


def recipe(train: Path, framework: TrainingFramework = "pytorch", **told: Any) -> Recipe:
    choice = {"train": str(train), "validation": 0.25, **told.pop("data", {})}
    return Recipe(
        name="patients", task="tabular", data=DataChoice(**choice), framework=framework, **told
    )


def classes(ignore: tuple[str, ...] = ("days",)) -> dict[str, Any]:
    return {"columns": {"target": "stays"}, "options": {"ignore": list(ignore)}}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_classes_are_learned_packaged_and_served(
    patients: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    told = recipe(patients, framework, data=classes())
    problem = problems.open(told, tmp_path / "job")
    assert problem.facts()["left_out"] == {
        "id": "every row has another value",
        "clinic": "one value only",
        "days": "as data.options.ignore says",
    }
    assert problem.facts()["labels"].keys() == {"no", "yes"}
    model = problem.build(framework)
    assert learn(problem, framework, model, 25) > 0.85
    manifest = packaged(problem, model, tmp_path / "result", told)
    assert manifest.signature.labels == ("no", "yes")
    rows = [
        {"age": 80, "ward": "heart", "clinic": "north", "stays": "no", "id": "p1", "days": 3},
        {"age": "30", "ward": "bone"},
    ]
    body = json.dumps({"inputs": rows}).encode()
    answer = served(manifest, tmp_path / "result", Payload(media_type=JSON, body=body))
    assert [each[0]["label"] for each in answer] == ["yes", "no"]
    again = problems.open(told, tmp_path / "again", tmp_path / "result").build(framework)
    verbs, feed = frameworks.get(framework), everything(problem, "validation")
    one, two = (next(iter(verbs.run(m, feed.inputs).values())) for m in (model, again))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def least_squares(problem: Problem, model: Any) -> None:
    """Plain steps of torch on the mean squared error."""
    import torch

    feed = everything(problem, "train")
    x, y = torch.tensor(feed.inputs["features"]), torch.tensor(feed.targets["values"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def test_a_number_is_learned_and_served_in_its_units(patients: Path, tmp_path: Path) -> None:
    told = recipe(
        patients, data={"columns": {"target": "days"}, "options": {"ignore": ["stays", "id"]}}
    )
    problem = problems.open(told, tmp_path / "job")
    assert (problem.primary, problem.loss.name) == ("rmse", "mean-squared-error")
    model = problem.build("pytorch")
    least_squares(problem, model)
    held, meter = everything(problem, "validation"), problem.meter()
    meter.add(frameworks.get("pytorch").run(model, held.inputs), held)
    found = meter.result()
    assert found["r2"] > 0.8
    manifest = packaged(problem, model, tmp_path / "result", told)
    assert manifest.signature.labels is None
    body = json.dumps({"inputs": {"age": 80, "ward": "heart", "clinic": None}}).encode()
    answer = served(manifest, tmp_path / "result", Payload(media_type=JSON, body=body))
    assert answer["value"] == pytest.approx(11, abs=1)


def test_metrics_are_the_librarys(patients: Path, tmp_path: Path) -> None:
    from sklearn import metrics

    problem = problems.open(recipe(patients, data=classes()), tmp_path)
    logits = np.array([[2.0, 0], [0, 1], [1, 0.5], [0, 3]], np.float32)
    labels = np.array([0, 1, 1, 1])
    meter = problem.meter()
    assert meter.result() == {}
    for rows in (slice(0, 1), slice(1, 4)):
        feed = Feed(inputs={}, targets={"labels": labels[rows]}, size=1, weight=1)
        meter.add({"y": logits[rows]}, feed)
    scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert meter.result() == {
        "accuracy": pytest.approx(0.75),
        "macro_f1": pytest.approx(metrics.f1_score(labels, logits.argmax(1), average="macro")),
        "log_loss": pytest.approx(metrics.log_loss(labels, scores), rel=1e-5),
        "auc": pytest.approx(metrics.roc_auc_score(labels, scores)),
    }


@pytest.mark.parametrize(
    ("content", "data", "word"),
    [
        ("x,target\n1,\n2, NA\n", {}, "no row has a value of 'target'"),
        ("x,target\n1,a\n2,a\n", {}, "one class only"),
        ("x,y\n1,2\n", {}, "no column 'target'; it has x, y"),
        ("target\na\nb\n", {}, "no column to learn from"),
        (
            "x,target\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(30)) + "oops,a\n",
            {},
            "line 32: 'x' must be a number; received 'oops'",
        ),
        ("x,target\n1,a\n2,b\n", {"options": {"ignore": ["z"]}}, "no column 'z'"),
        ("x,target\n1,a\n2,b\n", {"options": {"kinds": {"x": "date"}}}, "date"),
        (
            "x,target\n1,a\n2,b\n",
            {"options": {"kind": "regression"}},
            "line 2: 'target' must be a number; received 'a'",
        ),
    ],
)
def test_bad_tables_are_refused_with_their_line(
    tmp_path: Path, content: str, data: dict[str, Any], word: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=word):
        problems.open(recipe(path, data={"validation": 0.0, **data}), tmp_path / "job")


def test_the_hint_about_a_missing_column_is_one_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    with pytest.raises(InvalidInput) as caught:
        Tabular(recipe(path), tmp_path, None)
    assert "--set data.columns.target=COLUMN" in str(caught.value.hint)
    named = Tabular(recipe(path, data={"columns": {"target": "y"}}), tmp_path, None)
    assert named.labels == ("a", "b")


def test_rows_without_a_target_are_in_no_part_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{i},{'' if i % 10 == 3 else i / 2}" for i in range(100)]
    path.write_text("x,target\n" + "\n".join(rows))
    problem = Tabular(recipe(path, data={"validation": 0.2}), tmp_path, None)
    assert not problem.classifies
    facts = problem.facts()
    assert sum(facts["samples"].values()) == 90
    assert facts["samples"]["validation"] == 18
    (note,) = facts["notes"]
    assert note == (
        "Rows of a.csv passed over, since they have no value of 'target': 10 "
        "(line 5, line 15, line 25, line 35, line 45 …)."
    )
    values = problem.feed("train", np.arange(72), epoch=None).targets["values"]
    assert np.isfinite(values).all()
