"""What is learned: one problem a task, made from a recipe and the data that it names.

A task's own problem lies in its folder; here is what problems share.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import cast

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe
from lmaas.training.base import Problem


def open(recipe: Recipe, folder: Path, base: Path | None = None) -> Problem:
    """The problem of a recipe whose data are paths.

    `folder` is the job's: what is made of the data goes there, once. `base` is the folder of the
    package of the model that is trained on (`manifest.json`, `source/`, `compiled/`), or of a
    Hugging Face checkpoint. Raises InvalidInput for data or options that do not do.
    """
    return cast(Problem, _module(recipe).open_problem(recipe, folder, base))


def least_parameters(recipe: Recipe) -> int:
    """What the new model of a recipe has at least, where it is made before its problem is open."""
    counted = getattr(_module(recipe), "least_parameters", None)
    return 0 if counted is None else int(counted(recipe))


def _module(recipe: Recipe) -> ModuleType:
    """The module of the task's training half whose `open_problem` makes the problem."""
    if recipe.task not in tasks.trained():
        raise InvalidInput(
            f"Nothing is known of training {recipe.task!r}; known: {', '.join(tasks.trained())}.",
            param="task",
        )
    return importlib.import_module(f"{tasks.home(recipe.task)}.training.problem")
