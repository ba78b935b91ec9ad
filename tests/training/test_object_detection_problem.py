"""Detectors learned from scratch: what is learned, what is measured, what is served."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.tasks.object_detection.options import CenterNet
from lmaas.tasks.object_detection.training.problem import ObjectDetection, open_problem
from lmaas.tasks.object_detection.training.scenes import TRUE
from lmaas.tasks.object_detection.training.start import HEAT_BIAS
from lmaas.tasks.object_detection.training.targets import cells_of
from lmaas.training import learners
from lmaas.training.base import Feed
from lmaas.training.group import ALONE
from lmaas.types import Payload
from training_kit import FRAMEWORKS, packaged, served, verified
from training_kit import run as run_recipe

SIDE = 48
SMALL = {"widths": [8, 16, 16, 16], "head": 16}


def write(folder: Path, count: int, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Images with a light and a dark square each, and a JSONL of their boxes."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        pixels = np.full((size[1], size[0], 3), 120, np.uint8)
        boxes = []
        for label, colour, half in (("light", 255, 0), ("dark", 0, size[0] // 2)):
            side = int(random.integers(10, 18))
            left = half + int(random.integers(0, size[0] // 2 - side))
            top = int(random.integers(0, size[1] - side))
            pixels[top : top + side, left : left + side] = colour
            boxes.append({"label": label, "box": [left, top, left + side, top + side]})
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "boxes": boxes}))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    return folder


def recipe(train: Path, **fields: Any) -> Recipe:
    told: dict[str, Any] = {
        "name": "squares", "task": "object-detection", "data": {"train": str(train)},
        "model": {"options": SMALL}, **fields,
    }  # fmt: skip
    return recipe_of(told)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("squares") / "data", 120)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_squares_are_found_in_every_framework(
    squares: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    given = recipe(
        squares, framework=framework, epochs=20, batch_size=16, early_stopping=None,
        optimizer={"learning_rate": 0.01}, schedule={"name": "cosine"},
        data={"train": str(squares), "validation": 0.2, "test": 0.2},
    )  # fmt: skip
    events: list[Any] = []
    assert run_recipe(given, tmp_path / "job", events)
    manifest = verified(tmp_path / "job" / "result")
    assert manifest.metrics["valid_map50"] > 0.9
    assert 0.3 < manifest.metrics["test_map"] <= manifest.metrics["test_map50"]
    assert manifest.signature.labels == ("dark", "light")
    assert manifest.signature.detection is not None
    assert manifest.signature.detection.head == "centers"
    picture = Image.open(squares / "0.png").resize((3 * SIDE, 3 * SIDE), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG")
    answer = served(manifest, tmp_path / "job" / "result", Payload(body=file.getvalue()))
    want = json.loads((squares / "boxes.jsonl").read_text().splitlines()[0])["boxes"]
    assert {each["label"] for each in answer} == {"dark", "light"}
    for each in want:
        (found,) = [one["box"] for one in answer if one["label"] == each["label"]][:1]
        corners = [found[side] for side in ("xmin", "ymin", "xmax", "ymax")]
        np.testing.assert_allclose(corners, 3 * np.array(each["box"]), atol=9)


def test_all_frameworks_begin_alike(squares: Path, tmp_path: Path) -> None:
    """Before it has learned, no network takes a cell for a centre, whatever its features are."""
    losses = {}
    for framework in FRAMEWORKS:
        given = recipe(squares, framework=framework, model={})
        problem = open_problem(given, tmp_path / framework, None)
        learner = learners.get(framework)(problem.build(framework), problem.loss, given, ALONE)
        loss, outputs = learner.evaluate(problem.feed("train", np.arange(8), epoch=0))
        (grid,) = outputs.values()
        assert np.abs(grid[..., :4]).max() < 1
        assert np.abs(grid[..., 4:] - HEAT_BIAS).max() < 1
        losses[framework] = loss
    assert max(losses.values()) < 1.1 * min(losses.values()), losses


def test_what_is_learned_is_what_is_read(squares: Path, tmp_path: Path) -> None:
    """The targets of an image, as a network that is right would give them, are its boxes."""
    problem = open_problem(recipe(squares), tmp_path, None)
    assert isinstance(problem, ObjectDetection)
    feed = problem.feed("train", np.arange(20), epoch=None)
    heat = np.where(feed.targets["heat"] == 1, 5.0, -9.0)
    right = np.concatenate([feed.targets["boxes"], heat], axis=-1).astype(np.float32)
    meter = problem.meter()
    meter.add({"output_0": right}, feed)
    assert meter.result() == {"map": 1.0, "map50": 1.0}
    shifted = right.copy()
    shifted[..., 2] += 1.5  # six pixels to the right
    meter = problem.meter()
    meter.add({"output_0": shifted}, feed)
    assert meter.result()["map"] < 0.2
    assert feed.targets[TRUE].shape == (20, 2, 6)


def test_centres_that_share_a_cell_learn_the_smaller_box() -> None:
    boxes = np.array([[0.0, 0, 30, 30], [13, 13, 17, 17]])
    told = cells_of(boxes, np.array([0, 1]), 32, 32, 2)
    assert told["mask"].sum() == pytest.approx(2)
    assert told["mask"][3, 3] == 1
    assert (told["heat"] == 1).sum() == 2
    np.testing.assert_allclose(told["boxes"][3, 3, :2], np.log(1), atol=1e-6)
    none = cells_of(np.zeros((0, 4)), np.zeros(0), 32, 32, 2)
    assert not any(array.any() for array in none.values())


def test_images_are_laid_down_whole_and_boxes_with_them(tmp_path: Path) -> None:
    data = write(tmp_path / "data", 6, size=(96, 32))
    options = {"height": 48, "width": 48}
    problem = open_problem(
        recipe(data, data={"train": str(data), "options": options}), tmp_path / "job", None
    )
    feed: Feed = problem.feed("train", np.arange(4), epoch=None)
    pixels = feed.inputs["pixels"]
    for image, boxes in zip(pixels, feed.targets[TRUE], strict=True):
        for kind, left, top, right, bottom, _ in boxes:
            assert 16 <= top < bottom <= 32  # 48 x 16 in the middle of 48 x 48
            part = image[:, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
            assert (part.mean() > 0.5) == bool(kind == 1)


def test_augmentation_is_the_same_in_each_run_and_reaches_the_boxes(
    squares: Path, tmp_path: Path
) -> None:
    steps = [{"name": "mosaic", "p": 0.5}, {"name": "window"}, {"name": "flip"}]
    made = [
        open_problem(recipe(squares, augmentation=steps), tmp_path, None).feed(
            "train", np.arange(8), epoch=epoch
        )
        for epoch in (0, 0, 1)
    ]
    for name in ("heat", "boxes", "mask"):
        assert np.array_equal(made[0].targets[name], made[1].targets[name])
        assert not np.array_equal(made[0].targets[name], made[2].targets[name])
    assert TRUE not in made[0].targets


def test_the_size_is_known_before_the_network_is_built(squares: Path, tmp_path: Path) -> None:
    problem = open_problem(recipe(squares, model={}), tmp_path, None)
    assert isinstance(problem, ObjectDetection)
    network = problem.build("pytorch")
    count = sum(p.numel() for p in network.parameters())
    assert problem.num_parameters() == count
    assert 550_000 < count < 650_000  # as docs and recipe say


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_goes_on_from_a_version(
    squares: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    given = recipe(squares, framework=framework)
    problem = open_problem(given, tmp_path / "first", None)
    first = problem.build(framework)
    package = tmp_path / "package"
    told = msgspec.structs.replace(given, model=problem.model)  # type: ignore[attr-defined]
    packaged(problem, first, package, told)
    again = recipe(squares, framework=framework, model={"base": "squares:1"}, seed=7)
    second = open_problem(again, tmp_path / "second", package)
    feed = second.feed("train", np.arange(4), epoch=None)
    pixels = feed.inputs["pixels"]

    def run(model: Any) -> np.ndarray:
        if framework == "pytorch":
            import torch

            with torch.no_grad():
                return np.asarray(model(torch.from_numpy(pixels)))
        return np.asarray(model(pixels))

    np.testing.assert_allclose(run(second.build(framework)), run(first), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augmentation": [{"name": "mixup"}]}, "mosaic"),
        ({"model": {"architecture": "cnn"}}, "centernet"),
        ({"model": {"options": {"widths": [8, 8]}}}, "widths"),
        ({"model": {"options": {"widths": [9, 8, 8, 8]}}}, "widths"),
    ],
)
def test_what_a_recipe_cannot_have_is_named(
    squares: Path, tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        open_problem(recipe(squares, **fields), tmp_path, None)


def test_boxes_that_do_not_fit_their_image_or_classes_are_named(tmp_path: Path) -> None:
    data = write(tmp_path / "data", 3)
    held = write(tmp_path / "held", 2)
    lines = (data / "boxes.jsonl").read_text().splitlines()
    far = json.loads(lines[1])
    far["boxes"][0]["box"] = [40, 40, 90, 90]
    (data / "boxes.jsonl").write_text("\n".join([lines[0], json.dumps(far), lines[2]]))
    with pytest.raises(InvalidInput, match=r"boxes\.jsonl, line 2: the box lies outside"):
        open_problem(recipe(data), tmp_path / "job", None)
    (data / "boxes.jsonl").write_text("\n".join(lines))
    odd = json.loads(lines[0])
    odd["boxes"][1]["label"] = "grey"
    (held / "boxes.jsonl").write_text(json.dumps(odd))
    given = recipe(data, data={"train": str(data), "validation": str(held)})
    with pytest.raises(InvalidInput, match=r"boxes\.jsonl, line 1: unknown class 'grey'"):
        open_problem(given, tmp_path / "job", None)
    (data / "0.png").write_bytes(b"no image")
    with pytest.raises(InvalidInput, match=r"0\.png: The input is not an image"):
        open_problem(recipe(data), tmp_path / "other", None)


def test_data_without_boxes_say_what_is_wanted(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "data" / label / "1.png")
    with pytest.raises(InvalidInput, match="no column 'boxes'"):
        open_problem(recipe(tmp_path / "data"), tmp_path, None)


def test_options_of_the_network_are_checked() -> None:
    assert CenterNet().widths == (32, 64, 96, 128)
