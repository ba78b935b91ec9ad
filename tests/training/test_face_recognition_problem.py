"""Faces learned from scratch: who is learned, who is measured, what is served."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.tasks.architectures import Shape
from lmaas.tasks.face_recognition.options import FaceNet
from lmaas.tasks.face_recognition.training.problem import PERSON, FaceRecognition, open_problem
from lmaas.training.base import IGNORED
from lmaas.types import Payload
from training_kit import FRAMEWORKS, packaged, served, verified
from training_kit import run as run_recipe

SIDE = 32
SMALL = {"widths": [16, 16, 24, 32], "dimensions": 32}
PEOPLE, PHOTOS = 40, 8


def photo(who: int, number: int) -> np.ndarray:
    """A person is a pattern of 4 x 4 colours; a photo has its own light, shift and noise."""
    pattern = np.random.default_rng([1, who]).integers(20, 236, (4, 4, 3))
    random = np.random.default_rng([2, who, number])
    pixels = np.kron(pattern, np.ones((8, 8, 1))) * random.uniform(0.7, 1.1)
    pixels = np.roll(pixels, random.integers(-2, 3, 2), (0, 1)) + random.normal(0, 12, pixels.shape)
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def write(folder: Path, people: range, photos: int = PHOTOS) -> Path:
    for who in people:
        for number in range(photos):
            path = folder / f"person {who}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(who, number)).save(path)
    return folder


def recipe(train: Path, data: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    told: dict[str, Any] = {
        "name": "people", "task": "face-recognition",
        "data": {"train": str(train), "options": {"size": SIDE}, **(data or {})},
        "model": {"options": SMALL}, **fields,
    }  # fmt: skip
    return recipe_of(told)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("people") / "data", range(PEOPLE))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_people_who_are_not_learned_are_told_apart_in_every_framework(
    people: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    given = recipe(
        people, {"validation": 0.3}, framework=framework, epochs=12, batch_size=16,
        early_stopping=None, optimizer={"learning_rate": 0.003}, schedule={"name": "cosine"},
    )  # fmt: skip
    events: list[Any] = []
    assert run_recipe(given, tmp_path / "job", events)
    manifest = verified(tmp_path / "job" / "result")
    assert manifest.metrics["valid_eer"] < 0.15
    assert manifest.metrics["valid_tar_at_0.01"] > 0.5
    face = manifest.signature.face
    assert face is not None
    assert face.dimensions == 32
    assert face.pairs == manifest.metrics["valid_stranger_pairs"]
    assert [each.false_accept_rate for each in face.rates] == [0.1, 0.01]
    assert face.rates[1].threshold == pytest.approx(
        manifest.metrics["valid_threshold_at_0.01"], abs=2e-6
    )
    assert f"{face.rates[1].threshold:.4f} | 0.01 |" in manifest.card
    thresholds = [each.threshold for each in face.rates]
    assert thresholds == sorted(thresholds)
    # The vectors of the people who were learned are no part of what is served.
    shape = Shape(features=3 * SIDE * SIDE, channels=3)
    assert manifest.num_parameters == msgspec.convert(SMALL, FaceNet).parameters(shape)

    def vector(who: int, number: int) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(photo(who, number)).save(file, "PNG")
        (told,) = served(manifest, tmp_path / "job" / "result", Payload(body=file.getvalue()))
        return np.array(told["embedding"])

    one, same, other = vector(900, 0), vector(900, 1), vector(901, 0)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ same > one @ other


def test_people_are_in_one_part_and_others_measure(people: Path, tmp_path: Path) -> None:
    given = recipe(people, {"validation": 0.2, "test": 0.1})
    problem = open_problem(given, tmp_path, None)
    assert isinstance(problem, FaceRecognition)
    counts = problem.facts()["people"]
    assert counts == {"train": 28, "validation": 8, "test": 4}
    assert problem.size("train") == 28 * PHOTOS
    learned = problem.feed("train", np.arange(5), epoch=0)
    assert learned.targets.keys() == {"labels"}
    held = problem.feed("validation", np.arange(20), epoch=None)
    assert (held.targets["labels"] == IGNORED).all()
    assert held.targets[PERSON].tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert problem.num_parameters() == sum(
        parameter.numel() for parameter in problem.build("pytorch").parameters()
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augmentation": [{"name": "mixup"}]}, "augmentation"),
        ({"data": {"options": {"size": 40}}}, "data.options"),
        ({"model": {"options": {"widths": [4, 8, 8, 8]}}}, "model.options"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    people: Path, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_problem(recipe(people, **fields), tmp_path, None)
    assert (caught.value.param or "").startswith(param)


def test_nobody_is_learned_and_measured(people: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both", range(PEOPLE - 1, PEOPLE + 1), 2)
    with pytest.raises(InvalidInput, match="person 39"):
        open_problem(recipe(people, {"validation": str(both)}), tmp_path, None)
    alone = write(tmp_path / "alone", range(1), 3)
    with pytest.raises(InvalidInput, match="one person only"):
        open_problem(recipe(alone), tmp_path, None)


def test_a_base_keeps_its_vectors_and_learns_other_people(people: Path, tmp_path: Path) -> None:
    given = recipe(people, epochs=1, framework="pytorch")
    base = tmp_path / "base"
    problem = open_problem(given, tmp_path, None)
    packaged(problem, problem.build("pytorch"), base, given)
    others = write(tmp_path / "others", range(200, 204), 2)
    model = {"base": "people:1"}
    told = msgspec.structs.replace(
        recipe(others, framework="pytorch"),
        model=recipe_of(
            {"name": "x", "task": "face-recognition", "data": {"train": "x"}, "model": model}
        ).model,
    )
    again = open_problem(told, tmp_path, base)
    import torch

    pixels = torch.randn(2, 3, SIDE, SIDE)
    first = problem.build("pytorch").embedder(pixels)
    second = again.build("pytorch").embedder(pixels)
    torch.testing.assert_close(first, second)
    assert again.build("pytorch").people.shape == (3, 32)  # one of the four is held out
