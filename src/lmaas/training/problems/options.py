"""What `data` may say, by task: the columns' fields and the options. Data for every reader of them.

Knows no data and no libraries, so that a server can tell of them.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe

Side = Annotated[int, Meta(ge=1, le=4096)]


class DataOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tasks' options."""


class ImageDataOptions(DataOptions, frozen=True, kw_only=True):
    """The size that images get, and whether they are grey (1) or colour (3).

    "auto": what the first images have, 128 at most. `resize` cuts the middle out ("crop") or
    changes the sides' proportion; `invert` swaps dark and light.
    """

    height: Side | Literal["auto"] = "auto"
    width: Side | Literal["auto"] = "auto"
    channels: Literal[1, 3] | Literal["auto"] = "auto"
    resize: Literal["stretch", "crop"] = "stretch"
    invert: bool = False


class TableDataOptions(DataOptions, frozen=True, kw_only=True):
    """What the target is, what columns are, and which are left out.

    "auto": a target of few whole numbers or of names is one of classes, another one a number.
    `kinds` says what a column is, where it is another thing than it looks like, `decimals` which
    mark its numbers have before the fraction.
    """

    kind: Literal["auto", "classification", "regression"] = "auto"
    kinds: dict[str, Literal["number", "category", "date"]] = msgspec.field(default_factory=dict)
    decimals: dict[str, Literal[".", ","]] = msgspec.field(default_factory=dict)
    ignore: tuple[str, ...] = ()


class TextDataOptions(DataOptions, frozen=True, kw_only=True):
    """The most tokens of a text (what is longer is cut), and what its tokenizer is like.

    "auto": a length that 95 of 100 texts have at most. A base has its own tokenizer, and an encoder
    takes no more tokens than it was made for.
    """

    max_length: Annotated[int, Meta(ge=4, le=8192)] | Literal["auto"] = "auto"
    vocabulary: Annotated[int, Meta(ge=300, le=200_000)] = 8000
    lowercase: bool = True


class ConversationDataOptions(DataOptions, frozen=True, kw_only=True):
    """The longest sample in tokens; 0 takes the model's context. What is longer is refused."""

    max_length: Annotated[int, Meta(ge=0)] = 0


OPTIONS: Final[dict[str, type[DataOptions]]] = {
    "image-classification": ImageDataOptions,
    "tabular": TableDataOptions,
    "text-classification": TextDataOptions,
    "text-generation": ConversationDataOptions,
}
"""Each task's `data.options`."""
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "image-classification": ("image", "label"),
    "tabular": ("target",),
    "text-classification": ("text", "label"),
    "text-generation": (),
}
"""The fields that `data.columns` finds a column for; a field left out is in the one of its name."""

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
    assert issubclass(kind, OPTIONS[recipe.task])
    return converted(recipe.data.options, kind, "data.options")
