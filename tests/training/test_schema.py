"""The published schema says what the tables say that runs are made from."""

import json
import re
from typing import Any

import numpy as np
import pytest

from lmaas.recipe import ModelChoice
from lmaas.training.base import Feed, Meter
from lmaas.training.problems import PROBLEMS, architectures
from lmaas.training.problems.classification import ClassMeter
from lmaas.training.problems.metrics import METRICS
from lmaas.training.problems.options import FIELDS, OPTIONS
from lmaas.training.problems.tabular import ErrorMeter, ScoreMeter
from lmaas.training.schema import AUGMENTATIONS, recipe_schema

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
    for table in (TASKS, FIELDS, OPTIONS, METRICS, AUGMENTATIONS, architectures.KNOWN):
        assert set(table) == set(PROBLEMS)
    assert sorted(TASKS) == PARTS["Recipe"]["properties"]["task"]["enum"]
    assert set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(SCHEMA))) == set(PARTS)


@pytest.mark.parametrize("task", list(PROBLEMS))
def test_architectures_are_told_with_their_options(task: str) -> None:
    told = {model["title"]: model["properties"] for model in TASKS[task]["model"]["anyOf"]}
    assert set(told) == set(architectures.KNOWN[task])
    for name, properties in told.items():
        _, options = architectures.resolve(task, ModelChoice(architecture=name))
        assert set(part(properties["options"])["properties"]) == set(options.__struct_fields__)
    for left_open in (None, "auto"):
        name, _ = architectures.resolve(task, ModelChoice(architecture=left_open))
        assert left_open in told[name]["architecture"]["enum"]


@pytest.mark.parametrize("task", list(PROBLEMS))
def test_augmentations_are_told_with_their_options(task: str) -> None:
    augmentation = TASKS[task]["augmentation"]
    if not AUGMENTATIONS[task]:
        assert augmentation == {"maxItems": 0}
        return
    assert augmentation["items"]["properties"]["name"]["enum"] == list(AUGMENTATIONS[task])
    told = {one["title"]: one for one in PARTS["Transform"]["oneOf"]}
    for name, kind in AUGMENTATIONS[task].items():
        options = part(told[name]["properties"]["options"])
        assert tuple(options["properties"]) == kind.__struct_fields__
        assert ("options" in told[name]["required"]) == bool(options["required"])
        assert told[name]["additionalProperties"] is options["additionalProperties"] is False


@pytest.mark.parametrize("task", list(PROBLEMS))
def test_data_options_and_columns_are_the_tasks_own(task: str) -> None:
    data = TASKS[task]["data"]["properties"]
    assert set(part(data["options"])["properties"]) == set(OPTIONS[task].__struct_fields__)
    assert data["columns"]["propertyNames"]["enum"] == list(FIELDS[task])


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
    assert set(meter.result()) < set(METRICS[task])
    assert TASKS[task]["early_stopping"]["properties"]["metric"]["enum"] == list(METRICS[task])
