"""The published schema says what the tables say that runs are made from."""

import json
import re
from typing import Any

import numpy as np
import pytest

from lmaas import tasks
from lmaas.recipe import ModelChoice
from lmaas.tasks.tabular.training.problem import ErrorMeter, ScoreMeter
from lmaas.training.base import Feed, Meter
from lmaas.training.problems import architectures
from lmaas.training.problems.classification import ClassMeter
from lmaas.training.schema import STEPS, recipe_schema

SCHEMA = recipe_schema()
PARTS: dict[str, Any] = SCHEMA["$defs"]
TASKS: dict[str, Any] = {
    one["if"]["properties"]["task"]["const"]: one["then"]["properties"]
    for one in PARTS["Recipe"]["allOf"]
}


def part(ref: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = PARTS[ref["$ref"].removeprefix("#/$defs/")]
    return told


def test_every_task_has_its_tables_and_every_reference_leads_somewhere() -> None:
    assert set(TASKS) == set(tasks.trained())
    assert sorted(TASKS) == PARTS["Recipe"]["properties"]["task"]["enum"]
    assert set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(SCHEMA))) == set(PARTS)


@pytest.mark.parametrize("task", list(tasks.trained()))
def test_architectures_are_told_with_their_options(task: str) -> None:
    told = {model["title"]: model["properties"] for model in TASKS[task]["model"]["anyOf"]}
    assert set(told) == set(tasks.trained()[task].architectures)
    for name, properties in told.items():
        _, options = architectures.resolve(task, ModelChoice(architecture=name))
        assert set(part(properties["options"])["properties"]) == set(options.__struct_fields__)
    for left_open in (None, "auto"):
        name, _ = architectures.resolve(task, ModelChoice(architecture=left_open))
        assert left_open in told[name]["architecture"]["enum"]


@pytest.mark.parametrize("task", list(tasks.trained()))
def test_augmentations_are_told_with_their_options(task: str) -> None:
    augmentation = TASKS[task]["augmentation"]
    if not STEPS[tasks.trained()[task].augments]:
        assert augmentation == {"maxItems": 0}
        return
    assert augmentation["items"]["properties"]["name"]["enum"] == list(
        STEPS[tasks.trained()[task].augments]
    )
    told = {one["title"]: one for one in PARTS["Transform"]["oneOf"]}
    for name, kind in STEPS[tasks.trained()[task].augments].items():
        options = part(told[name]["properties"]["options"])
        assert tuple(options["properties"]) == kind.__struct_fields__
        assert ("options" in told[name]["required"]) == bool(options["required"])
        assert told[name]["additionalProperties"] is options["additionalProperties"] is False


@pytest.mark.parametrize("task", list(tasks.trained()))
def test_data_options_and_columns_are_the_tasks_own(task: str) -> None:
    data = TASKS[task]["data"]["properties"]
    assert set(part(data["options"])["properties"]) == set(
        tasks.trained()[task].options.__struct_fields__
    )
    assert data["columns"]["propertyNames"]["enum"] == list(tasks.trained()[task].columns)


@pytest.mark.parametrize(
    ("meter", "task"),
    [
        (ClassMeter(2), "image-classification"),
        (ClassMeter(2), "text-classification"),
        (ScoreMeter(2), "tabular"),
        (ErrorMeter(0.0, 1.0), "tabular"),
    ],
)
def test_what_meters_give_is_in_the_table(meter: Meter, task: str) -> None:
    told = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    targets = {"labels": np.array([0, 1]), "values": told}
    meter.add({"out": told}, Feed(inputs={}, targets=targets, size=2, weight=2))
    assert meter.result()
    assert set(meter.result()) < set(tasks.spec(task).metrics)
    assert TASKS[task]["early_stopping"]["properties"]["metric"]["enum"] == list(
        tasks.spec(task).metrics
    )
