"""Structured pruning from a recipe to a package: fewer parameters, smaller files, as right."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas.errors import InvalidInput
from lmaas.job import CHECKPOINTS_FOLDER, RESULT_FOLDER, RUN_FILE, JobEvent
from lmaas.recipe import TrainingFramework, recipe_of
from lmaas.training import learners, run
from lmaas.types import Manifest
from training_kit import verified

FRAMEWORKS = list(learners.LEARNERS)
GATE = 0.04
"""How much accuracy may be lost."""
RULE = {"method": "structured", "sparsity": 0.5, "end": 0.6, "updates": 4}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "cnn": ("image-classification", {"channels": [24, 48]}, 20),
    "mlp": ("image-classification", {"hidden": [128]}, 10),
    "table": ("tabular", {"hidden": [96, 64]}, 20),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """scikit-learn's digits as images, and its measurements of tumours as a table."""
    from sklearn.datasets import load_breast_cancer, load_digits

    folder = tmp_path_factory.mktemp("data")
    digits = load_digits()
    with zipfile.ZipFile(folder / "digits.zip", "w") as archive:
        for number in range(800):
            file = io.BytesIO()
            Image.fromarray((digits.images[number] * 15.9).astype(np.uint8)).save(file, "PNG")
            archive.writestr(f"{digits.target[number]}/{number}.png", file.getvalue())
    tumours = load_breast_cancer()
    with (folder / "tumours.csv").open("w", newline="") as written:
        rows = csv.writer(written)
        rows.writerow([*tumours.feature_names, "kind"])
        for values, kind in zip(tumours.data, tumours.target, strict=True):
            rows.writerow([*values, tumours.target_names[kind]])
    return {
        "image-classification": folder / "digits.zip",
        "tabular": folder / "tumours.csv",
    }


def trained(
    data: Path, folder: Path, task: str, framework: TrainingFramework, **more: Any
) -> tuple[Manifest, list[JobEvent]]:
    choice: dict[str, Any] = {"train": str(data), "validation": 0.2}
    if task == "tabular":
        choice["columns"] = {"target": "kind"}
    given = {"name": "small", "task": task, "framework": framework, "data": choice, **more}
    base = more.get("base")
    events: list[JobEvent] = []
    folder.mkdir()
    assert run.run(recipe_of(given), folder, None, events.append, base=base)
    return verified(folder / RESULT_FOLDER), events


def compiled_bytes(folder: Path) -> int:
    return (folder / RESULT_FOLDER / "compiled" / "model.bin").stat().st_size


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_registered_model_is_smaller_and_nearly_as_right(
    data: dict[str, Path], framework: TrainingFramework, case: str, tmp_path: Path
) -> None:
    task, options, epochs = CASES[case]
    model = {"architecture": "mlp" if case == "table" else case, "options": options}
    more: dict[str, Any] = {"model": model, "epochs": epochs}
    whole, _ = trained(data[task], tmp_path / "whole", task, framework, **more)
    small, events = trained(data[task], tmp_path / "small", task, framework, pruning=RULE, **more)
    assert small.num_parameters < 0.65 * whole.num_parameters
    assert compiled_bytes(tmp_path / "small") < 0.65 * compiled_bytes(tmp_path / "whole")
    accuracy, before = (made.metrics["valid_accuracy"] for made in (small, whole))
    assert before > 0.85
    assert accuracy >= before - GATE
    told = small.lineage.recipe["recipe"]["model"]["options"]
    (field,) = [name for name, value in told.items() if isinstance(value, list)]
    last = [event.message for event in events if "Layers are smaller" in event.message][-1]
    for index, width in enumerate(told[field]):
        assert f"{field}.{index} {width}" in last
    asked = options[field]
    assert sum(told[field]) == sum(asked) // 2
    # The run's own recipe still says what was asked for.
    begun = json.loads((tmp_path / "small" / RUN_FILE).read_bytes())["recipe"]
    assert begun["model"]["options"][field] == list(asked)


def test_a_smaller_model_is_trained_on_and_gets_smaller_still(
    data: dict[str, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "task": "image-classification",
        "framework": "pytorch",
        "pruning": RULE,
        "epochs": 10,
    }
    path = data["image-classification"]
    small, _ = trained(path, tmp_path / "small", **given)
    base = tmp_path / "small" / RESULT_FOLDER
    given["model"] = {"base": "small:1"}
    again = recipe_of({"name": "b", "data": {"train": str(path), "validation": 0.2}, **given})
    (tmp_path / "again").mkdir()
    assert run.run(again, tmp_path / "again", None, lambda _: None, base=base)
    content = (tmp_path / "again" / RESULT_FOLDER / "manifest.json").read_bytes()
    smaller = msgspec.json.decode(content, type=Manifest)
    assert smaller.num_parameters < 0.65 * small.num_parameters
    assert smaller.metrics["valid_accuracy"] > 0.85


def test_a_checkpoint_becomes_a_model_with_the_widths_that_it_has(
    data: dict[str, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "model": {"architecture": "mlp", "options": {"hidden": [64]}},
        "epochs": 5,
        "pruning": {"method": "structured", "sparsity": 0.5, "begin": 0.2, "end": 0.8},
        "checkpoints": {"every_steps": 100, "keep": 9},
    }
    task = "image-classification"
    path = tmp_path / "run"
    trained(data[task], path, task, "pytorch", **given)
    begun = json.loads((path / RUN_FILE).read_bytes())["recipe"]
    widths = []
    for point in sorted((path / CHECKPOINTS_FOLDER).iterdir()):
        folder = tmp_path / point.name
        shutil.copytree(point, folder / CHECKPOINTS_FOLDER / point.name)
        shutil.copyfile(path / RUN_FILE, folder / RUN_FILE)
        run.export(recipe_of(begun), folder, "ftjob-1", base=None)
        manifest = verified(folder / RESULT_FOLDER)
        (width,) = manifest.lineage.recipe["recipe"]["model"]["options"]["hidden"]
        assert manifest.num_parameters == 64 * width + width + 10 * width + 10
        widths.append(width)
    assert len(set(widths)) > 1
    assert (widths[0], widths[-1]) == (64, 32)
    assert widths == sorted(widths, reverse=True)


def test_what_has_no_hidden_layer_of_its_own_is_refused(
    data: dict[str, Path], tmp_path: Path
) -> None:
    for model, param in (
        ({"architecture": "mlp", "options": {"hidden": []}}, "pruning.method"),
        ({"architecture": "resnet18", "options": {"width": 8, "inner": [8] * 8}}, None),
    ):
        with pytest.raises(InvalidInput) as refused:
            trained(
                data["image-classification"],
                tmp_path / f"{param}",
                "image-classification",
                "pytorch",
                model=model,
                pruning=RULE,
            )
        assert refused.value.param == (param or "pruning.sparsity")
