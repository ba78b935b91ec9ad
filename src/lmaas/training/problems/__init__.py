"""What is learned: one problem a task, made from a recipe and the data that it names."""

import importlib
from pathlib import Path
from typing import Final, cast

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe
from lmaas.training.base import Problem

PROBLEMS: Final = {
    "image-classification": "lmaas.training.problems.image_classification",
    "tabular": "lmaas.training.problems.tabular",
    "text-classification": "lmaas.training.problems.text_classification",
    "text-generation": "lmaas.training.problems.text_generation",
}
"""Each task's module, imported on first use; its `open_problem` makes the problem."""


def open(recipe: Recipe, folder: Path, base: Path | None = None) -> Problem:
    """The problem of a recipe whose data are paths.

    `folder` is the job's: what is made of the data goes there, once. `base` is the folder of the
    package of the model that is trained on (`manifest.json`, `source/`, `compiled/`), or of a
    Hugging Face checkpoint. Raises InvalidInput for data or options that do not do.
    """
    if recipe.task not in PROBLEMS:
        raise InvalidInput(
            f"Nothing is known of training {recipe.task!r}; known: {', '.join(PROBLEMS)}.",
            param="task",
        )
    module = importlib.import_module(PROBLEMS[recipe.task])
    return cast(Problem, module.open_problem(recipe, folder, base))
