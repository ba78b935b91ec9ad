"""The network that a recipe names: resolved, noted, and built with other widths.

What networks there are, and their sizes, is said in the folder of each task.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.recipe import ModelChoice
from lmaas.tasks.architectures import Architecture
from lmaas.training.base import Width

A = TypeVar("A", bound=Architecture)


def widths(options: Architecture) -> dict[str, Width]:
    """The widths that can be made smaller, each alone, by name: "hidden.0"."""
    if options.free is None:
        return {}
    field, parts = options.free
    return {
        f"{field}.{index}": Width(size=size, parts=parts)
        for index, size in enumerate(getattr(options, field))
    }


def resized(options: A, sizes: Mapping[str, int]) -> A:
    """The options with all the widths that `widths` names."""
    assert options.free is not None
    field, _ = options.free
    given = tuple(sizes[name] for name in widths(options))
    return msgspec.structs.replace(options, **{field: given})


def resolve(task: str, choice: ModelChoice) -> tuple[str, Any]:
    """The architecture's name and its options, defaults filled in. Raises InvalidInput."""
    known = tasks.trained()[task].architectures
    name = choice.architecture
    if name is None or name == "auto":
        name = next(iter(known))
    if name not in known:
        raise InvalidInput(
            f"{task} knows no architecture {name!r}; known: {', '.join(known)}.",
            param="model.architecture",
        )
    try:
        options = msgspec.convert(choice.options, known[name])
    except msgspec.ValidationError as error:
        told = ", ".join(known[name].__struct_fields__)
        raise InvalidInput(
            f"model.options of {name}: {error}.", hint=f"Known are {told}.", param="model.options"
        ) from None
    if wrong := options.contradiction():
        raise InvalidInput(f"model.options: {wrong}.", param="model.options")
    return name, options


def noted(name: str, options: Architecture) -> ModelChoice:
    """The choice with everything said, as it goes into the resolved recipe."""
    return ModelChoice(architecture=name, options=msgspec.to_builtins(options))
