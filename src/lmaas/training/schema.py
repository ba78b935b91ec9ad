"""The JSON schema of a recipe with all that its free parts may say, from the tasks' specs.

What depends on the task (columns, options of data, architectures with theirs, augmentations,
metrics) stands in conditions on `task`. Imports no framework: a server can tell it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lmaas import tasks
from lmaas.data.augmentation import audio, boxes, image, line, text
from lmaas.recipe import Recipe
from lmaas.tasks import Spec

STEPS: Final[Mapping[str | None, Mapping[str, type[msgspec.Struct]]]] = {
    "image": image.STEPS,
    "boxes": boxes.STEPS,
    "line": line.STEPS,
    "text": text.STEPS,
    "audio": audio.STEPS,
    None: {},
}
"""Augmentations with their options, by the kind of data that they are for."""

Parts = dict[str, Any]


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": "#/$defs/Recipe",
        "$defs": recipe_parts("#/$defs/{name}"),
    }


def recipe_parts(ref_template: str) -> Parts:
    """The parts of the schema by name, `Recipe` among them; `ref_template` is how they refer."""
    trained = tasks.trained().values()
    kinds = {
        *(training.options for training in trained),
        *(kind for training in trained for kind in training.architectures.values()),
        *(kind for training in trained for kind in STEPS[training.augments].values()),
    }
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    refs, parts = msgspec.json.schema_components([Recipe, *ordered], ref_template=ref_template)
    ref_of = dict(zip(ordered, refs[1:], strict=True))
    every = {name: kind for steps in STEPS.values() for name, kind in steps.items()}
    shape = parts["Transform"]
    parts["Transform"] = {
        "title": shape["title"],
        "description": shape["description"],
        "oneOf": [_transform(shape, name, kind, ref_of[kind]) for name, kind in every.items()],
    }
    parts["Recipe"]["allOf"] = [
        {
            "if": {"properties": {"task": {"const": task}}, "required": ["task"]},
            "then": {"properties": _of_task(tasks.spec(task), ref_of)},
        }
        for task in tasks.trained()
    ]
    return parts


def recipe_keys(parts: Parts, ref_template: str) -> Parts:
    """`RecipeKeys`: what `Recipe` of these parts may say, with nothing that must be said."""
    data = {name: value for name, value in parts["DataChoice"].items() if name != "required"}
    keys = {name: value for name, value in parts["Recipe"].items() if name != "required"}
    given = {"data": {"$ref": ref_template.format(name="DataKeys")}}
    return {
        "DataKeys": {**data, "title": "DataKeys"},
        "RecipeKeys": {**keys, "title": "RecipeKeys", "properties": keys["properties"] | given},
    }


def _transform(
    shape: Parts, name: str, kind: type[msgspec.Struct], ref: dict[str, str]
) -> dict[str, Any]:
    """One augmentation: its name, its options, and what all have."""
    asked = any(field.required for field in msgspec.structs.fields(kind))
    return {
        "title": name,
        "type": "object",
        "properties": {**shape["properties"], "name": {"const": name}, "options": ref},
        "required": ["name", "options"] if asked else ["name"],
        "additionalProperties": False,
    }


def _of_task(spec: Spec, ref_of: Mapping[type[msgspec.Struct], dict[str, str]]) -> dict[str, Any]:
    """What the keys of a recipe may say for a task."""
    training = spec.trained
    augmentations = list(STEPS[training.augments])
    steps = {"properties": {"name": {"enum": augmentations}}}
    models = []
    for number, (name, kind) in enumerate(training.architectures.items()):
        # Left open, it is the first; of a table, what the framework and the options ask for.
        open_too = number == 0 or name in training.left_open
        named = {"enum": [name, *(["auto", None] if open_too else [])]}
        models.append(
            {
                "title": name,
                "properties": {"architecture": named, "options": ref_of[kind]},
                **({} if open_too else {"required": ["architecture"]}),
            }
        )
    return {
        "data": {
            "properties": {
                "columns": {"propertyNames": {"enum": list(training.columns)}},
                "options": ref_of[training.options],
            }
        },
        "model": {"anyOf": models},
        "augmentation": {"items": steps} if augmentations else {"maxItems": 0},
        "early_stopping": {"properties": {"metric": {"enum": list(spec.metrics)}}},
    }
