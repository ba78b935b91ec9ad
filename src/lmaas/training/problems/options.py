"""The options that a recipe gives, as the record that its task takes."""

from typing import Any, TypeVar

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe

T = TypeVar("T", bound=msgspec.Struct)


def converted(given: dict[str, Any], kind: type[T], param: str) -> T:
    """`given` as a record. Raises InvalidInput whose `param` is `param`."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        told = ", ".join(kind.__struct_fields__)
        raise InvalidInput(f"{param}: {error}.", hint=f"Known are {told}.", param=param) from None


def data_options(recipe: Recipe, kind: type[T]) -> T:
    """The recipe's `data.options`. Raises InvalidInput for what is unknown or bad."""
    assert issubclass(kind, tasks.trained()[recipe.task].options)
    return converted(recipe.data.options, kind, "data.options")
