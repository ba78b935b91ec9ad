"""Detectors of the DETR kind that learn on: whole checkpoints, by the loss of their own."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import detectors
from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.frameworks.detector import image_of
from lmaas.recipe import Recipe, recipe_of
from lmaas.tasks.object_detection.training.checkpoint_tuning import CheckpointTuning
from lmaas.tasks.object_detection.training.problem import open_problem
from lmaas.tasks.object_detection.training.scenes import TRUE
from lmaas.training import learners
from lmaas.training.group import ALONE
from lmaas.training.problems.base_model import read_manifest
from lmaas.types import Payload, PushOptions
from training_kit import run as run_recipe
from training_kit import served, verified

SIDE = 64


def write(folder: Path, count: int, labels: tuple[str, str] = ("light", "dark")) -> Path:
    """Images with a light and a dark square each; the first one has none."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        pixels = np.full((SIDE, SIDE, 3), 120, np.uint8)
        boxes = []
        for half, (label, colour) in enumerate(zip(labels, (255, 0), strict=True)):
            side = int(random.integers(14, 24))
            left = half * SIDE // 2 + int(random.integers(0, SIDE // 2 - side))
            top = int(random.integers(0, SIDE - side))
            if index:
                pixels[top : top + side, left : left + side] = colour
                boxes.append({"label": label, "box": [left, top, left + side, top + side]})
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "boxes": boxes}))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    return folder


def recipe(train: Path, **fields: Any) -> Recipe:
    told: dict[str, Any] = {
        "name": "squares", "task": "object-detection", "data": {"train": str(train)},
        "model": {"base": "base:1"},
    }  # fmt: skip
    return recipe_of(told | fields)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("squares") / "data", 40)


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("yolos")
    detectors.make_yolos(folder / "checkpoint")
    checkpoint.build(folder / "checkpoint", folder / "package", PushOptions(name="base"))
    return folder / "package"


def test_a_checkpoint_learns_other_classes_and_is_one_again(
    squares: Path, yolos: Path, tmp_path: Path
) -> None:
    given = recipe(
        squares, epochs=8, batch_size=8, early_stopping=None, augmentation=[{"name": "flip"}],
        optimizer={"learning_rate": 0.002}, data={"train": str(squares), "validation": 0.2},
    )  # fmt: skip
    events: list[Any] = []
    assert run_recipe(given, tmp_path / "job", events, base=yolos)
    losses = [e.data["valid_loss"] for e in events if "valid_loss" in e.data]
    assert losses[-1] < 0.8 * losses[0]
    manifest = verified(tmp_path / "job" / "result")
    assert manifest.signature.labels == ("dark", "light")
    assert manifest.metrics.keys() >= {"valid_map", "valid_map50"}
    file = io.BytesIO()
    Image.open(squares / "1.png").resize((3 * SIDE, SIDE)).save(file, "PNG")
    payload = Payload(body=file.getvalue(), parameters={"threshold": 0})
    answer = served(manifest, tmp_path / "job" / "result", payload)
    assert {each["label"] for each in answer} <= {"dark", "light"}
    assert len(answer) == 12  # its queries
    # Its package is a base: of the same classes, all weights are kept.
    again = open_problem(recipe(squares), tmp_path / "again", tmp_path / "job" / "result")
    assert isinstance(again, CheckpointTuning)
    config = checkpoint.read_config(tmp_path / "job" / "result" / "source")
    assert config["id2label"] == {"0": "dark", "1": "light"}
    feed = again.feed("train", np.arange(4), epoch=None)
    assert _evaluated(again, feed)["losses"][0, 0] < losses[0]


def _evaluated(problem: CheckpointTuning, feed: Any) -> dict[str, np.ndarray]:
    import torch

    model = problem.build("pytorch").eval()
    with torch.no_grad():
        told = model(**{name: torch.from_numpy(array) for name, array in feed.inputs.items()})
    return {name: tensor.numpy() for name, tensor in told.items()}


@pytest.mark.parametrize("name", ["detr", "d-fine", "rt-detr"])
def test_the_loss_is_the_models_own(name: str, squares: Path, yolos: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForObjectDetection

    make: dict[str, Callable[[Path], None]] = {
        "detr": detectors.make_detr,
        "d-fine": detectors.make_d_fine,
        "rt-detr": lambda folder: detectors.make_d_fine(folder, "RTDetr"),
    }
    base = tmp_path / "base"
    make[name](base / "source")
    other = read_manifest(yolos)
    image = image_of(base / "source", SimpleNamespace())
    signature = msgspec.structs.replace(other.signature, image=image)
    manifest = msgspec.structs.replace(other, signature=signature)
    (base / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    given = recipe(squares, optimizer={"learning_rate": 1e-3})
    problem = open_problem(given, tmp_path / "job", base)
    assert isinstance(problem, CheckpointTuning)
    feed = problem.feed("train", np.arange(5), epoch=None)
    told = _evaluated(problem, feed)
    model = AutoModelForObjectDetection.from_pretrained(base / "source").eval()
    own = problem.build("pytorch").eval().model
    for key, tensor in model.state_dict().items():
        mine = own.state_dict()[key]
        assert mine.shape != tensor.shape or torch.equal(mine, tensor), key
    labels = [
        {
            "class_labels": torch.tensor(true[true[:, 0] >= 0, 0]).long(),
            "boxes": torch.tensor(
                [
                    [(a + c) / 2 / SIDE, (b + d) / 2 / SIDE, (c - a) / SIDE, (d - b) / SIDE]
                    for kind, a, b, c, d, _ in true.tolist()
                    if kind >= 0
                ]
            ).reshape(-1, 4),
        }
        for true in feed.targets[TRUE]
    ]
    with torch.no_grad():
        out = own(torch.from_numpy(feed.inputs["pixels"]), labels=labels)
    np.testing.assert_allclose(told["losses"], np.full((5, 1), out.loss), rtol=1e-4)
    assert feed.weight == sum(len(each["boxes"]) for each in labels)
    # In training there are queries that start near objects, where there are any.
    learner = learners.get("pytorch")(problem.build("pytorch"), problem.loss, given, ALONE)
    before = learner.weights()
    for images in (np.arange(5), np.array([0])):
        one = problem.feed("train", images, epoch=0)
        loss = learner.step([one], learning_rate=1e-3, weight=one.weight)
        assert 0 < loss < 100 * one.weight
    after = learner.weights()
    assert sum(not np.array_equal(before[key], after[key]) for key in before) > len(before) / 2


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"accumulate": 2}, "accumulate 1"),
        ({"distribution": {"workers": 2}}, "one worker"),
        ({"precision": "bf16"}, "precision f32"),
        ({"framework": "keras"}, "trained in pytorch"),
        ({"model": {"base": "b:1", "architecture": "centernet"}}, "not a centernet"),
        ({"model": {"base": "b:1", "options": {"head": 8}}}, "head"),
    ],
)
def test_what_a_checkpoint_cannot_have_is_named(
    squares: Path, yolos: Path, tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        open_problem(recipe(squares, **fields), tmp_path, yolos)


def test_the_size_is_the_checkpoints(squares: Path, yolos: Path, tmp_path: Path) -> None:
    options = {"height": 128}
    with pytest.raises(InvalidInput, match=r"data\.options\.height"):
        open_problem(
            recipe(squares, data={"train": str(squares), "options": options}), tmp_path, yolos
        )
