"""Texts: sentiment learned from a made-up grammar in every framework, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.recipe import DataChoice, ModelChoice, Recipe, TrainingFramework, Transform
from lmaas.training import problems
from lmaas.types import JSON, Payload
from training_kit import FRAMEWORKS, everything, learn, packaged, served

GOOD = ("lovely", "brilliant", "warm", "delightful")
BAD = ("awful", "boring", "cold", "dreadful")
THINGS = ("film", "plot", "actor", "music", "ending")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    lines = []
    for _ in range(400):
        kind = int(random.integers(2))
        words = [str(random.choice((BAD, GOOD)[kind])) for _ in range(2)]
        thing = random.choice(THINGS, 2)
        text = f"The {thing[0]} was {words[0]} and the {thing[1]} felt {words[1]}."
        lines.append(json.dumps({"review": text, "stars": 1 + 4 * kind}))
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    path.write_text("\n".join(lines))
    return path


def recipe(train: Path, framework: TrainingFramework = "pytorch", **told: Any) -> Recipe:
    choice = {
        "train": str(train),
        "validation": 0.2,
        "columns": {"text": "review", "label": "stars"},
        "options": {"vocabulary": 400},
        **told.pop("data", {}),
    }
    return Recipe(
        name="reviews",
        task="text-classification",
        data=DataChoice(**choice),
        framework=framework,
        **told,
    )


@pytest.mark.parametrize("architecture", ["bag", "transformer"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_sentiment_is_learned_packaged_served_and_trained_on(
    reviews: Path, framework: TrainingFramework, architecture: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
    if architecture == "bag":
        options = {"width": 16, "hidden": [16]}
    model_choice = ModelChoice(architecture=architecture, options=options)
    told = recipe(reviews, framework, model=model_choice)
    problem = problems.open(told, tmp_path / "job")
    assert problem.facts()["labels"].keys() == {"1", "5"}
    assert problem.facts()["overlap"]["validation"]["samples"] > 0
    model = problem.build(framework)
    assert learn(problem, framework, model, 20, batch_size=256, learning_rate=0.01) > 0.9
    manifest = packaged(problem, model, tmp_path / "result", told)
    texts = ["The plot was lovely and the music felt warm.", "an AWFUL, boring film"]
    body = json.dumps({"inputs": texts}).encode()
    answer = served(manifest, tmp_path / "result", Payload(media_type=JSON, body=body))
    assert [each[0]["label"] for each in answer] == ["5", "1"]
    again = problems.open(told, tmp_path / "again", tmp_path / "result").build(framework)
    verbs, feed = frameworks.get(framework), everything(problem, "validation")
    one, two = (next(iter(verbs.run(m, feed.inputs).values())) for m in (model, again))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_augmentation_changes_texts_by_epoch_alone(reviews: Path, tmp_path: Path) -> None:
    told = recipe(reviews, augmentation=(Transform(name="swap", options={"share": 0.5}),))
    problem = problems.open(told, tmp_path)
    rows = np.arange(8)
    first = problem.feed("train", rows, epoch=0).inputs["input_ids"]
    np.testing.assert_array_equal(first, problem.feed("train", rows, epoch=0).inputs["input_ids"])
    assert not np.array_equal(first, problem.feed("train", rows, epoch=1).inputs["input_ids"])


@pytest.mark.parametrize(
    ("line", "change", "word"),
    [
        ({"review": " ", "stars": 1}, {}, "line 3: 'review' must be a text that is not empty"),
        ({"review": "x", "stars": 1}, {"data": {"options": {"vocab": 9}}}, "vocab"),
        ({"review": "x", "stars": 1}, {"augmentation": (Transform(name="flip"),)}, "flip"),
        ({"review": "x", "stars": 1}, {"data": {"columns": {"text": "body"}}}, "no column 'body'"),
    ],
)
def test_what_does_not_do_is_refused(
    tmp_path: Path, line: dict[str, Any], change: dict[str, Any], word: str
) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [{"review": "good", "stars": 5}, {"review": "bad", "stars": 1}, line]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InvalidInput, match=word):
        problems.open(recipe(path, **change), tmp_path / "job")
