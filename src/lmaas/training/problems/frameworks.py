"""Which framework a run is in, where the recipe leaves it open."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.recipe import Optimizer, Recipe, Schedule, TrainingFramework
from lmaas.tasks import Training
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


class Alone(NamedTuple):
    """An architecture that one framework alone trains; `several`: it stands for several models."""

    task: str
    architecture: str
    framework: str
    several: bool


def framework_of(recipe: Recipe, base: Path | None) -> TrainingFramework:
    """The recipe's framework; "auto" is LightGBM for boosted trees and PyTorch for networks.

    A table of which nothing is said is learned by a stack. Raises InvalidInput for trees in a
    framework of networks, and the other way round.
    """
    named, before = recipe.model.architecture, _framework_in(base)
    alone = list(_alone())
    for own in alone:
        if own.several and own.framework == before:
            raise InvalidInput(
                f"The base is a {own.architecture} of several models, which is not trained on.",
                hint="Train anew on all data, or name an architecture: "
                f"{_single(tasks.trained()[own.task])}.",
                param="model.base",
            )
    if recipe.framework == "auto":
        return cast(TrainingFramework, _chosen(recipe, before, alone, new=base is None))
    for own in alone:
        _check_alone(recipe, own, named)
    return recipe.framework


def _chosen(recipe: Recipe, before: str | None, alone: list[Alone], *, new: bool) -> str:
    for own in alone:
        if own.several:
            if new and stacks(recipe):
                return own.framework
        elif own.architecture == recipe.model.architecture or own.framework == before:
            return own.framework
    return "pytorch"


def _check_alone(recipe: Recipe, own: Alone, named: str | None) -> None:
    """Raise InvalidInput for the framework without its architecture, or the other way round."""
    asked = recipe.framework == own.framework
    received, where = named or recipe.task, f"{own.architecture} for the task {own.task}"
    if own.several:
        if not stacks(recipe) if asked else named == own.architecture:
            raise InvalidInput(
                f"The framework {own.framework} trains {where}, and no other does; received "
                f"{recipe.framework} and {received}.",
                hint="Leave framework out.",
                param="framework",
            )
    elif named == own.architecture and not asked:
        raise InvalidInput(
            f"{named} are not trained in {recipe.framework}; expected {own.framework}.",
            hint="Leave framework out.",
            param="framework",
        )
    elif asked and (recipe.task != own.task or named not in (None, "auto", own.architecture)):
        raise InvalidInput(
            f"{own.framework} trains {where}; received {received}.",
            hint="Leave framework out.",
            param="framework",
        )


def check(recipe: Recipe, base: Path | None) -> None:
    """Raise InvalidInput where several models are asked for by name and an option is of one.

    Of a recipe as it was given: a resolved one has numbers for all of them.
    """
    training = tasks.trained()[recipe.task]
    if training.several is None or recipe.model.architecture != training.several.architecture:
        return
    for name, is_set in _of_one_model(recipe, base).items():
        if is_set:
            raise InvalidInput(
                f"{recipe.model.architecture} cannot honour this {name}: several models are "
                "compared on held-out samples, each trained in its own way.",
                hint=f"Leave it out, or name one: model.architecture {_single(training)}.",
                param=name,
            )


def compares(recipe: Recipe, base: Path | None) -> bool:
    """Whether the model is to be the better of several that one framework of networks trains.

    So it is where nothing is said of it.
    """
    training = tasks.trained()[recipe.task]
    if training.several is None or training.several.framework in training.only_in.values():
        return False
    if recipe.model.architecture in (None, "auto"):
        told = _of_one_model(recipe, base)
        return not any(told.values()) and not recipe.model.options
    return recipe.model.architecture == training.several.architecture


def stacks(recipe: Recipe) -> bool:
    """Whether the recipe asks for a stack, or leaves everything about a table's model open."""
    training = tasks.trained()[recipe.task]
    if training.several is None or training.several.framework not in training.only_in.values():
        return False
    if recipe.model.architecture in (None, "auto"):
        return not recipe.model.options and not any(
            is_set(recipe) for is_set in NETWORK_OPTIONS.values()
        )
    return recipe.model.architecture == training.several.architecture


def _of_one_model(recipe: Recipe, base: Path | None) -> dict[str, bool]:
    """What says how one model learns, by name, and whether the recipe says it."""
    training = tasks.trained()[recipe.task]
    several = training.several
    assert several is not None
    network = several.framework not in training.only_in.values()
    return {
        **{name: is_set(recipe) for name, is_set in NETWORK_OPTIONS.items()},
        "augmentation": bool(recipe.augmentation),
        "model.base": base is not None,
        "framework": network and recipe.framework not in ("auto", several.framework),
        "data.validation": several.held_out and not recipe.data.validation,
    }


def _single(training: Training) -> str:
    """What can be named instead of several models."""
    several = training.several.architecture if training.several else None
    return " or ".join(name for name in training.architectures if name != several)


def _alone() -> Iterator[Alone]:
    for task, training in tasks.trained().items():
        several = training.several.architecture if training.several else None
        for architecture, framework in training.only_in.items():
            yield Alone(task, architecture, framework, architecture == several)


def _framework_in(base: Path | None) -> str | None:
    if base is None:
        return None
    try:
        content = (base / "manifest.json").read_bytes()
        return msgspec.json.decode(content, type=Manifest).framework
    except (OSError, msgspec.DecodeError):
        return None
