"""The learners by framework: how each takes a training step."""

import importlib
from collections.abc import Callable
from typing import Any, cast

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.training.base import Group, Learner, Loss

LEARNERS: dict[TrainingFramework, str] = {
    "pytorch": "lmaas.training.pytorch.learner",
    "keras": "lmaas.training.keras.learner",
    "tensorflow": "lmaas.training.tensorflow.learner",
}
"""Each framework's module, imported on first use; its `LEARNER` is called as `get` says."""

MakeLearner = Callable[[Any, Loss, Recipe, Group], Learner]


def get(name: str) -> MakeLearner:
    """What makes a learner of `name` from a live model, its loss, a resolved recipe and a group.

    Raises InvalidInput listing the known ones.
    """
    for framework, module in LEARNERS.items():
        if framework == name:
            return cast(MakeLearner, importlib.import_module(module).LEARNER)
    raise InvalidInput(f"No training in {name!r}; known: {', '.join(LEARNERS)}.", param="framework")
