"""Which framework a run is in, where the recipe leaves it open."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.recipe import Optimizer, Recipe, Schedule, TrainingFramework
from lmaas.training.problems.architectures import COMPARED, STACK, TREES
from lmaas.types import Manifest

NETWORK_OPTIONS: Final[dict[str, Callable[[Recipe], bool]]] = {
    "epochs": lambda recipe: recipe.epochs != "auto",
    "steps": lambda recipe: recipe.steps is not None,
    "batch_size": lambda recipe: recipe.batch_size != "auto",
    "accumulate": lambda recipe: recipe.accumulate != 1,
    "optimizer": lambda recipe: recipe.optimizer != Optimizer(),
    "schedule": lambda recipe: recipe.schedule != Schedule(),
    "clip_norm": lambda recipe: recipe.clip_norm is not None,
    "label_smoothing": lambda recipe: recipe.label_smoothing != 0,
    "precision": lambda recipe: recipe.precision != "f32",
    "early_stopping": lambda recipe: recipe.early_stopping not in (None, "auto"),
    "pruning": lambda recipe: recipe.pruning is not None,
    "distribution": lambda recipe: recipe.distribution.workers > 1,
}
"""What says how one network learns, and whether a recipe has it: then auto is a network."""
ALONE: Final = {"tabular": "mlp or boosted-trees", "text-classification": "bag or transformer"}
"""What can be named instead of several models."""


def framework_of(recipe: Recipe, base: Path | None) -> TrainingFramework:
    """The recipe's framework; "auto" is LightGBM for boosted trees and PyTorch for networks.

    A table of which nothing is said is learned by a stack. Raises InvalidInput for trees in a
    framework of networks, and the other way round.
    """
    grows = recipe.model.architecture == TREES
    before = _framework_in(base)
    if before == "stack":
        raise InvalidInput(
            "The base is a stack of several models, which is not trained on.",
            hint="Train anew on all data, or name an architecture: mlp or boosted-trees.",
            param="model.base",
        )
    if recipe.framework == "auto":
        if stacks(recipe) and base is None:
            return "stack"
        return "lightgbm" if grows or before == "lightgbm" else "pytorch"
    if not stacks(recipe) if recipe.framework == "stack" else recipe.model.architecture == STACK:
        raise InvalidInput(
            f"The framework stack trains {STACK} for the task tabular, and no other does; received "
            f"{recipe.framework} and {recipe.model.architecture or recipe.task}.",
            hint="Leave framework out.",
            param="framework",
        )
    if grows and recipe.framework != "lightgbm":
        raise InvalidInput(
            f"{TREES} are not trained in {recipe.framework}; expected lightgbm.",
            hint="Leave framework out.",
            param="framework",
        )
    if recipe.framework == "lightgbm" and (
        recipe.task != "tabular" or recipe.model.architecture not in (None, "auto", TREES)
    ):
        raise InvalidInput(
            f"lightgbm trains {TREES} for the task tabular; received "
            f"{recipe.model.architecture or recipe.task}.",
            hint="Leave framework out.",
            param="framework",
        )
    return recipe.framework


def check(recipe: Recipe, base: Path | None) -> None:
    """Raise InvalidInput where several models are asked for by name and an option is of one.

    Of a recipe as it was given: a resolved one has numbers for all of them.
    """
    if recipe.model.architecture not in (STACK, COMPARED):
        return
    for name, is_set in _of_one_model(recipe, base).items():
        if is_set:
            raise InvalidInput(
                f"{recipe.model.architecture} cannot honour this {name}: several models are "
                "compared on held-out samples, each trained in its own way.",
                hint=f"Leave it out, or name one: model.architecture {ALONE[recipe.task]}.",
                param=name,
            )


def compares(recipe: Recipe, base: Path | None) -> bool:
    """Whether a classifier of texts is to be the better of several, as where nothing is said."""
    if recipe.model.architecture in (None, "auto"):
        told = _of_one_model(recipe, base)
        return not any(told.values()) and not recipe.model.options
    return recipe.model.architecture == COMPARED


def _of_one_model(recipe: Recipe, base: Path | None) -> dict[str, bool]:
    """What says how one model learns, by name, and whether the recipe says it."""
    texts = recipe.task == "text-classification"
    return {
        **{name: is_set(recipe) for name, is_set in NETWORK_OPTIONS.items()},
        "augmentation": bool(recipe.augmentation),
        "model.base": base is not None,
        "framework": texts and recipe.framework not in ("auto", "pytorch"),
        "data.validation": texts and not recipe.data.validation,
    }


def stacks(recipe: Recipe) -> bool:
    """Whether the recipe asks for a stack, or leaves everything about a table's model open."""
    if recipe.task != "tabular":
        return False
    if recipe.model.architecture in (None, "auto"):
        return not recipe.model.options and not any(
            is_set(recipe) for is_set in NETWORK_OPTIONS.values()
        )
    return recipe.model.architecture == STACK


def _framework_in(base: Path | None) -> str | None:
    if base is None:
        return None
    try:
        content = (base / "manifest.json").read_bytes()
        return msgspec.json.decode(content, type=Manifest).framework
    except (OSError, msgspec.DecodeError):
        return None
