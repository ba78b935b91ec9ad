"""Rows of mixed columns as numbers: fitted in training, kept as JSON beside the served model.

A number becomes (x - mean) / std, 0 where it is missing, and, if any was missing in training, a
second feature that says so. A category becomes one feature for each known value and one for all
others, missing ones included. Trees read each column as one feature: a number as above, NaN where
it is missing; a category as its place in `values`, then all others, then what is missing. Training
and serving encode with the same function.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.types import Record

FILE: Final = "columns.json"
MAX_VALUES: Final = 64
"""How many values of a category, the most frequent, have a feature of their own."""

MISSING: Final = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""What a cell of text says when it has no value, blanks around it aside."""
NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"

Values = np.ndarray | Sequence[str | None]
"""A column of numbers (N,) float64 with NaN where missing, or of categories."""


class Number(Record, frozen=True, kw_only=True, tag="number", tag_field="kind"):
    """A column of numbers; `missing` says whether a feature tells that there is none."""

    name: str
    mean: float
    std: float
    missing: bool


class Category(Record, frozen=True, kw_only=True, tag="category", tag_field="kind"):
    """A column of names."""

    name: str
    values: tuple[str, ...]


class Columns(Record, frozen=True, kw_only=True):
    """What a tabular model reads, in the order of its features.

    `target` is what it tells; for a number, output * `std` + `mean` is in the target's units.
    """

    columns: tuple[Number | Category, ...]
    target: str
    mean: float = 0.0
    std: float = 1.0
    form: Literal["dense", "trees"] = "dense"

    @property
    def width(self) -> int:
        """How many features a row has."""
        if self.form == "trees":
            return len(self.columns)
        return sum(
            1 + column.missing if isinstance(column, Number) else len(column.values) + 1
            for column in self.columns
        )

    def encode(self, values: Mapping[str, Values], size: int) -> np.ndarray:
        """`size` rows as (N, width) float32."""
        if self.form == "trees":
            told = [_for_trees(column, values[column.name]) for column in self.columns]
            return np.stack(told, axis=1).astype(np.float32)
        features = np.zeros((size, self.width), np.float32)
        at = 0
        for column in self.columns:
            given = values[column.name]
            if isinstance(column, Number):
                numbers = _scaled(column, given)
                absent = np.isnan(numbers)
                features[:, at] = np.where(absent, 0, numbers)
                if column.missing:
                    features[:, at + 1] = absent
                at += 1 + column.missing
            else:
                known = {value: number for number, value in enumerate(column.values)}
                others = len(known)
                places = [others if v is None else known.get(v, others) for v in given]
                features[np.arange(size), at + np.asarray(places, np.int64)] = 1
                at += others + 1
        return features

    def read(self, rows: Sequence[Any]) -> dict[str, Values]:
        """Rows of JSON objects as columns. Raises InvalidInput naming the row and the column."""
        names = [column.name for column in self.columns]
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise _wrong(index, f"must be an object; received {type(row).__name__}", names)
            for name in row.keys() - {*names, self.target}:
                raise _wrong(index, f"has the unknown column {name!r}", names)
            for name in names:
                if name not in row:
                    raise _wrong(index, f"lacks {name!r}; give null where it is unknown", names)
        found: dict[str, Values] = {}
        for column in self.columns:
            cells = [row[column.name] for row in rows]
            if isinstance(column, Number):
                found[column.name] = np.array(
                    [_number(cell, column.name, index) for index, cell in enumerate(cells)]
                )
            else:
                found[column.name] = [
                    _category(cell, column.name, index) for index, cell in enumerate(cells)
                ]
        return found

    @classmethod
    def load(cls, folder: Path) -> "Columns":
        """The columns that are served with a model. Raises InvalidInput."""
        try:
            found = msgspec.json.decode((folder / FILE).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{FILE} is missing or damaged: {error}.") from None
        scales = [found.std, *(c.std for c in found.columns if isinstance(c, Number))]
        if not found.columns or not all(scale > 0 for scale in scales):
            raise InvalidInput(f"{FILE} needs columns, and deviations above 0.")
        return found

    def save(self, folder: Path) -> None:
        """Write the columns beside a compiled model."""
        (folder / FILE).write_bytes(msgspec.json.encode(self))


def fit_number(name: str, values: np.ndarray) -> Number:
    """Mean and deviation of the values that are there; a constant keeps deviation 1."""
    known = values[~np.isnan(values)]
    std = float(known.std())
    usable = std > 1e-12 * max(1.0, float(np.abs(known).max()))
    return Number(
        name=name,
        mean=float(known.mean()),
        std=std if usable else 1.0,
        missing=len(known) < len(values),
    )


def fit_category(name: str, values: Sequence[str | None]) -> Category:
    """The most frequent values, in order of their names."""
    counts = Counter(value for value in values if value is not None)
    best = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_VALUES]
    return Category(name=name, values=tuple(sorted(best)))


def category(value: Any) -> str | None:
    """A cell as the name of a category: texts trimmed, numbers and booleans as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return None if value != value else f"{value:.15g}"
    if isinstance(value, str):
        return value.strip() or None
    return None


def _scaled(column: Number, values: Values) -> np.ndarray:
    """At mean 0 and deviation 1, NaN where there is none; kept within a million deviations."""
    return np.clip((np.asarray(values, np.float64) - column.mean) / column.std, -1e6, 1e6)


def _for_trees(column: Number | Category, values: Values) -> np.ndarray:
    if isinstance(column, Number):
        return _scaled(column, values)
    others = len(column.values)
    known: dict[str | None, int] = {value: number for number, value in enumerate(column.values)}
    known[None] = others + 1
    return np.array([known.get(value, others) for value in values], np.float64)


def _number(cell: Any, name: str, index: int) -> float:
    if isinstance(cell, str) and re.match(NUMBER, cell.strip()):
        return float(cell)
    if cell is None or (isinstance(cell, str) and cell.strip() in MISSING):
        return float("nan")
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise _wrong(index, f"{name!r} must be a number or null; received {cell!r:.80}")
    try:
        return float(cell)
    except OverflowError:
        raise _wrong(index, f"{name!r} is beyond a float's range") from None


def _category(cell: Any, name: str, index: int) -> str | None:
    if cell is not None and not isinstance(cell, str | int | float):
        told = type(cell).__name__
        raise _wrong(index, f"{name!r} must be a text, number or null; received {told}")
    return category(cell)


def _wrong(index: int, what: str, names: Sequence[str] | None = None) -> InvalidInput:
    hint = f"The columns are {', '.join(names[:50])}." if names else None
    return InvalidInput(f"inputs[{index}]: {what}.", hint=hint, param="inputs")
