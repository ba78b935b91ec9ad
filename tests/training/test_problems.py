"""Problems through their contract: data in, a network learns, a package that verifies comes out."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.recipe import DataChoice, ModelChoice, Recipe, TrainingFramework, Transform, recipe_of
from lmaas.training import problems
from lmaas.training.problems.splits import overlap_warnings
from lmaas.types import Payload
from training_kit import FRAMEWORKS, everything, learn, packaged, served

DIGITS = 600


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as a zip of PNG files in folders, one a class."""
    from sklearn.datasets import load_digits

    data = load_digits()
    path = tmp_path_factory.mktemp("digits") / "digits.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(DIGITS):
            archive.writestr(f"{data.target[number]}/{number}.png", png(data.images[number] * 15.9))
    return path


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def recipe(train: Path | str, framework: TrainingFramework = "pytorch", **told: Any) -> Recipe:
    choice = {"train": str(train), "validation": 0.2, **told.pop("data", {})}
    told = {"task": "image-classification", **told}
    return Recipe(name="digits", data=DataChoice(**choice), framework=framework, **told)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_digits_are_learned_packaged_served_and_trained_on(
    digits: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    told = recipe(digits, framework)
    problem = problems.open(told, tmp_path / "job")
    assert (problem.size("train"), problem.size("validation")) == (480, 120)
    model = problem.build(framework)
    assert learn(problem, framework, model, 12) > 0.9
    manifest = packaged(problem, model, tmp_path / "result", told)
    assert manifest.signature.labels == tuple("0123456789")
    assert manifest.lineage.data_sha256 == problem.facts()["sha256"]
    assert manifest.lineage.recipe["recipe"]["model"]["architecture"] == "cnn"
    with zipfile.ZipFile(digits) as archive:
        answer = served(
            manifest,
            tmp_path / "result",
            Payload(body=archive.read("0/0.png")),
        )
    assert answer[0]["label"] == "0"
    again = problems.open(told, tmp_path / "again", tmp_path / "result").build(framework)
    verbs, feed = frameworks.get(framework), everything(problem, "validation")
    one, two = (next(iter(verbs.run(m, feed.inputs).values())) for m in (model, again))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mlp", "resnet18", "vit"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_architecture_learns_and_compiles(
    digits: Path, framework: TrainingFramework, architecture: str, tmp_path: Path
) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "mlp": {"hidden": [64]},
        "resnet18": {"width": 8},
        "vit": {"patch": 4, "width": 32, "depth": 2},
    }
    model = ModelChoice(architecture=architecture, options=sizes[architecture])
    told = recipe(digits, framework, model=model)
    problem = problems.open(told, tmp_path / "job")
    network = problem.build(framework)
    other = problem.build(framework)
    feed = everything(problem, "validation")
    run = frameworks.get(framework).run
    before = next(iter(run(network, feed.inputs).values()))
    np.testing.assert_array_equal(before, next(iter(run(other, feed.inputs).values())))
    accuracy = learn(problem, framework, network, 2 if architecture == "resnet18" else 6)
    assert accuracy > 0.5
    packaged(problem, network, tmp_path / "result", told)


def test_another_set_of_classes_keeps_all_but_the_head(digits: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(digits) as source, zipfile.ZipFile(few, "w") as target:
        for name in source.namelist():
            if name[0] in "01":
                target.writestr(name, source.read(name))
    for framework in FRAMEWORKS:
        place = tmp_path / framework
        told = recipe(digits, framework)
        problem = problems.open(told, place / "job")
        model = problem.build(framework)
        packaged(problem, model, place / "result", told)
        told = recipe(few, framework)
        tuned = problems.open(told, place / "two", place / "result").build(framework)
        counted = frameworks.get(framework).num_parameters
        assert counted(model) - counted(tuned) == 8 * 129
        if framework == "pytorch":
            for mine, theirs in zip(model.parameters(), tuned.parameters(), strict=True):
                assert mine.shape != theirs.shape or bool((mine == theirs).all())


def test_a_base_says_what_its_network_and_its_images_are(digits: Path, tmp_path: Path) -> None:
    told = recipe(digits)
    problem = problems.open(told, tmp_path / "job")
    packaged(problem, problem.build("pytorch"), tmp_path / "result", told)
    own = {"channels": [32, 64, 128]}
    for change, param in (
        ({"model": ModelChoice(architecture="vit")}, "model.architecture"),
        ({"model": ModelChoice(options={"channels": [8]})}, "model.options.channels"),
        ({"data": {"options": {"height": 16}}}, "data.options.height"),
        ({"model": ModelChoice(architecture="cnn", options=own)}, None),
        ({"data": {"options": {"height": "auto", "width": 8}}}, None),
    ):
        asked = recipe(digits, **change)
        if param is None:
            problems.open(asked, tmp_path / "job", tmp_path / "result")
            continue
        with pytest.raises(InvalidInput) as refused:
            problems.open(asked, tmp_path / "job", tmp_path / "result")
        assert refused.value.param == param


def test_augmentation_depends_on_epoch_and_index_and_mixes_labels(
    digits: Path, tmp_path: Path
) -> None:
    steps = (Transform(name="crop", options={"padding": 1}), Transform(name="mixup"))
    problem = problems.open(recipe(digits, augmentation=steps), tmp_path)
    one = problem.feed("train", np.array([3, 4, 5]), epoch=0)
    two = problem.feed("train", np.array([5, 3]), epoch=0)
    np.testing.assert_array_equal(one.inputs["pixels"][[2, 0]], two.inputs["pixels"])
    np.testing.assert_allclose(one.targets["labels"].sum(axis=1), 1, rtol=1e-6)
    later = problem.feed("train", np.array([3, 4, 5]), epoch=1)
    assert not np.array_equal(one.inputs["pixels"], later.inputs["pixels"])
    plain = problem.feed("train", np.array([3]), epoch=None)
    assert plain.targets["labels"].dtype == np.int64


def test_held_out_images_that_are_learned_as_well_are_reported(
    digits: Path, tmp_path: Path
) -> None:
    other = tmp_path / "held.zip"
    with zipfile.ZipFile(digits) as source, zipfile.ZipFile(other, "w") as target:
        for name in ("0/0.png", "1/1.png"):
            target.writestr(name, source.read(name))
        target.writestr("2/new.png", png(np.full((8, 8), 7)))
    problem = problems.open(recipe(digits, data={"validation": str(other)}), tmp_path / "job")
    assert problem.facts()["overlap"] == {
        "validation": {"samples": 2, "places": ["held.zip, image 1", "held.zip, image 2"]}
    }
    (warning,) = overlap_warnings(problem.facts())
    assert warning.level == "warn"
    assert warning.message == (
        "2 validation samples are also trained on, which flatters the numbers: held.zip, "
        "image 1; held.zip, image 2."
    )
    with pytest.raises(InvalidInput, match=r"same data as data\.train"):
        problems.open(recipe(digits, data={"validation": str(digits)}), tmp_path / "job")


@pytest.mark.parametrize(
    ("task", "name", "content"),
    [
        ("image-classification", "digits.zip", ""),
        ("text-classification", "a.jsonl", '{"text": "a", "label": "x"}\n' * 4),
        ("tabular", "a.csv", "age,target\n1,ill\n2,well\n"),
    ],
)
def test_an_adapter_is_refused_by_name_where_there_is_none(
    digits: Path, tmp_path: Path, task: str, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() or digits.read_bytes())
    plain = {"name": "a", "task": task, "data": {"train": str(path)}, "framework": "pytorch"}
    with pytest.raises(InvalidInput, match=f"{task} .*no adapter") as refused:
        problems.open(recipe_of({**plain, "adapter": {"rank": 4}}), tmp_path / "job")
    assert refused.value.param == "adapter"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": ModelChoice(architecture="lenet")}, "lenet.*cnn, mlp, resnet18, vit"),
        ({"model": ModelChoice(options={"chanels": [8]})}, "chanels"),
        (
            {"model": ModelChoice(architecture="vit", options={"width": 30, "heads": 4})},
            "multiple of heads",
        ),
        ({"data": {"options": {"hight": 8}}}, "hight"),
        ({"data": {"columns": {"text": "x"}}}, "fields of image-classification are image, label"),
        ({"augmentation": (Transform(name="swap"),)}, "Unknown augmentation 'swap'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    digits: Path, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        problems.open(recipe(digits, **change), tmp_path)


def test_bad_images_and_labels_name_themselves(tmp_path: Path) -> None:
    def zipped(name: str, **members: bytes) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return path

    one, two = png(np.zeros((8, 8))), png(np.ones((8, 8)))
    broken = zipped("a.zip", **{"a/1.png": one, "b/2.png": two[:40]})
    with pytest.raises(InvalidInput, match=r"a\.zip, b/2\.png"):
        problems.open(recipe(broken), tmp_path)
    with pytest.raises(InvalidInput, match="one class only: 'a'"):
        problems.open(recipe(zipped("b.zip", **{"a/1.png": one, "a/2.png": two})), tmp_path)
    good = zipped("c.zip", **{"a/1.png": one, "b/2.png": two})
    held = zipped("d.zip", **{"c/3.png": one})
    with pytest.raises(InvalidInput, match=r"d\.zip, image 1: the label 'c' is not one"):
        problems.open(recipe(good, data={"validation": str(held)}), tmp_path)
