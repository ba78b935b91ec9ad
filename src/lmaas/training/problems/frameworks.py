"""Which framework a run is in, where the recipe leaves it open."""

from pathlib import Path

import msgspec

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.training.problems.architectures import TREES
from lmaas.types import Manifest


def framework_of(recipe: Recipe, base: Path | None) -> TrainingFramework:
    """The recipe's framework; "auto" is LightGBM for boosted trees and PyTorch for networks.

    Raises InvalidInput for trees in a framework of networks, and the other way round.
    """
    grows = recipe.model.architecture == TREES
    if recipe.framework == "auto":
        return "lightgbm" if grows or _has_trees(base) else "pytorch"
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


def _has_trees(base: Path | None) -> bool:
    if base is None:
        return False
    try:
        content = (base / "manifest.json").read_bytes()
        return msgspec.json.decode(content, type=Manifest).framework == "lightgbm"
    except (OSError, msgspec.DecodeError):
        return False
