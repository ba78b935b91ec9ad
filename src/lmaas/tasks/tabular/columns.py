"""Rows of mixed columns as numbers: fitted in training, kept as JSON beside the served model.

Two forms of the same row. Dense, for networks and linear models: a number is (x - mean) / std, 0
where it is missing, and, if any was missing in training, a second feature that says so; a category
is one feature for each known value and one for all others, missing ones included; a date is its
year, day and days since 1970 as numbers, its month and weekday as categories. For trees: a number
as above and NaN where it is missing; a category as its place in `values`, then all others, then
what is missing; a date as its parts. A stack reads both, one beside the other. Training and serving
encode with the same function.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.tasks import dates, numerals
from lmaas.tasks.cells import category
from lmaas.tasks.numerals import MISSING, Notation
from lmaas.types import Record

FILE: Final = "columns.json"
DAYS_A_YEAR: Final = 365.2425
MONTHS, WEEKDAYS = 12, 7
MOST_DENSE: Final = 64

Form = Literal["dense", "trees", "stack"]
Values = np.ndarray | Sequence[str | None]
"""A column of numbers (N,) float64 with NaN where missing, of categories, or of dates' parts
(N, `dates.PARTS`).
"""


class Number(Record, frozen=True, kw_only=True, tag="number", tag_field="kind"):
    """A column of numbers; `missing` says whether a feature tells that there is none.

    A text is read as `notation` says.
    """

    name: str
    mean: float
    std: float
    missing: bool
    notation: Notation = Notation()

    def width(self, form: Form) -> int:
        """How many features it has in one form."""
        return 1 if form == "trees" else 1 + self.missing

    def features(self, values: Values, form: Form) -> np.ndarray:
        """Its features (N, width)."""
        # Kept within a million deviations, so that no float32 overflows further on.
        scaled = np.clip((np.asarray(values, np.float64) - self.mean) / self.std, -1e6, 1e6)
        if form == "trees":
            return scaled[:, None]
        absent = np.isnan(scaled)
        told = [np.where(absent, 0, scaled), *([absent] if self.missing else [])]
        return np.stack(told, axis=1)

    def read(self, cells: Sequence[Any]) -> np.ndarray:
        """Cells of JSON as numbers. Raises InvalidInput."""
        return np.array([self._number(cell, index) for index, cell in enumerate(cells)])

    def _number(self, cell: Any, index: int) -> float:
        if cell is None:
            return float("nan")
        number = numerals.parse(cell, self.notation) if isinstance(cell, str) else None
        if number is not None:
            return number
        if isinstance(cell, bool | str) or not isinstance(cell, int | float):
            told = f", written with {self.notation.told()}" if isinstance(cell, str) else ""
            raise wrong(
                index, f"{self.name!r} must be a number or null; received {cell!r:.80}{told}"
            )
        try:
            return float(cell)
        except OverflowError:
            raise wrong(index, f"{self.name!r} is beyond a float's range") from None


class Category(Record, frozen=True, kw_only=True, tag="category", tag_field="kind"):
    """A column of names; the first `MOST_DENSE` of `values` have a dense feature of their own."""

    name: str
    values: tuple[str, ...]

    def width(self, form: Form) -> int:
        """How many features it has in one form."""
        return 1 if form == "trees" else min(MOST_DENSE, len(self.values)) + 1

    def features(self, values: Values, form: Form) -> np.ndarray:
        """Its features (N, width)."""
        read = self.values if form == "trees" else self.values[:MOST_DENSE]
        others = len(read)
        known: dict[str | None, int] = {value: number for number, value in enumerate(read)}
        known[None] = others + 1 if form == "trees" else others
        places = np.array([known.get(value, others) for value in values], np.int64)
        if form == "trees":
            return places[:, None]
        return one_hot(places, others + 1)

    def read(self, cells: Sequence[Any]) -> list[str | None]:
        """Cells of JSON as names. Raises InvalidInput."""
        for index, cell in enumerate(cells):
            if cell is not None and not isinstance(cell, str | int | float):
                told = type(cell).__name__
                raise wrong(index, f"{self.name!r} must be a text, number or null; received {told}")
        return [category(cell) for cell in cells]


class Date(Record, frozen=True, kw_only=True, tag="date", tag_field="kind"):
    """A column of dates in one of `dates.FORMS`; ISO 8601 is read as well.

    `mean` and `std` are those of the days since 1970; `time` says that times of day differ.
    """

    name: str
    form: str
    mean: float
    std: float
    missing: bool
    time: bool = False

    def width(self, form: Form) -> int:
        """How many features it has in one form."""
        parts = dates.PARTS if self.time else dates.PARTS - 1
        return parts if form == "trees" else parts - 2 + MONTHS + WEEKDAYS + self.missing

    def features(self, values: Values, form: Form) -> np.ndarray:
        """Its features (N, width)."""
        parts = np.asarray(values, np.float64)
        if form == "trees":
            return parts[:, : dates.PARTS if self.time else dates.PARTS - 1]
        absent = np.isnan(parts[:, dates.YEAR])
        middle = 1970 + self.mean / DAYS_A_YEAR
        told = [
            (parts[:, dates.YEAR] - middle) / max(1.0, self.std / DAYS_A_YEAR),
            (parts[:, dates.DAY] - 15.5) / 9,
            (parts[:, dates.ELAPSED] - self.mean) / self.std,
            *([(parts[:, dates.HOUR] - 12) / 7] if self.time else []),
        ]
        whole = np.nan_to_num(parts).astype(np.int64)
        features = [
            np.stack(told, axis=1),
            one_hot((whole[:, dates.MONTH] - 1).clip(0), MONTHS),
            one_hot(whole[:, dates.WEEKDAY], WEEKDAYS),
        ]
        both = np.concatenate(features, axis=1)
        both[absent] = 0
        return np.concatenate([both, absent[:, None]], axis=1) if self.missing else both

    def read(self, cells: Sequence[Any]) -> np.ndarray:
        """Cells of JSON as dates' parts. Raises InvalidInput."""
        return dates.parts([self._text(cell, index) for index, cell in enumerate(cells)], self.form)

    def _text(self, cell: Any, index: int) -> str | None:
        text = str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell
        if text is None or (isinstance(text, str) and text.strip() in MISSING):
            return None
        if not isinstance(text, str) or dates.parse(text, self.form) is None:
            known = "2024-01-31" if self.form == dates.ISO else f"2024-01-31 or {self.form}"
            raise wrong(
                index, f"{self.name!r} must be a date as {known}, or null; received {cell!r:.80}"
            )
        return text


Column = Number | Category | Date


class Columns(Record, frozen=True, kw_only=True):
    """What a tabular model reads, in the order of its features.

    `target` is what it tells; for a number, output * `std` + `mean` is in the target's units.
    `left_out` are columns of the data that it does not read: rows may have them, and the target.
    """

    columns: tuple[Column, ...]
    target: str
    mean: float = 0.0
    std: float = 1.0
    form: Form = "dense"
    left_out: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many features a row has."""
        return sum(self.widths())

    def widths(self) -> list[int]:
        """How many features a row has in each of the forms in which it is read."""
        return [sum(column.width(form) for column in self.columns) for form in self._forms()]

    def categorical(self) -> list[int]:
        """Which features of the form for trees are categories."""
        starts = np.cumsum([0, *(column.width("trees") for column in self.columns)])
        return [
            int(start)
            for start, column in zip(starts, self.columns, strict=False)
            if isinstance(column, Category)
        ]

    def _forms(self) -> tuple[Form, ...]:
        return ("trees", "dense") if self.form == "stack" else (self.form,)

    def encode(self, values: Mapping[str, Values], size: int) -> np.ndarray:
        """`size` rows as (N, width) float32."""
        features = np.empty((size, self.width), np.float32)
        at = 0
        for form in self._forms():
            for column in self.columns:
                width = column.width(form)
                features[:, at : at + width] = column.features(values[column.name], form)
                at += width
        return features

    def read(self, rows: Sequence[Any]) -> dict[str, Values]:
        """Rows of JSON objects as columns. Raises InvalidInput naming the row and the column."""
        names = [column.name for column in self.columns]
        known = {*names, self.target, *self.left_out}
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise wrong(index, f"must be an object; received {type(row).__name__}", names)
            for name in row.keys() - known:
                raise wrong(index, f"has the unknown column {name!r}", names)
            for name in names:
                if name not in row:
                    raise wrong(index, f"lacks {name!r}; give null where it is unknown", names)
        return {
            column.name: column.read([row[column.name] for row in rows]) for column in self.columns
        }

    @classmethod
    def load(cls, folder: Path) -> "Columns":
        """The columns that are served with a model. Raises InvalidInput."""
        try:
            found = msgspec.json.decode((folder / FILE).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{FILE} is missing or damaged: {error}.") from None
        if not found.columns or not all(scale > 0 for scale in found._scales()):
            raise InvalidInput(f"{FILE} needs columns, and deviations above 0.")
        return found

    def _scales(self) -> Iterator[float]:
        yield self.std
        for column in self.columns:
            if isinstance(column, Number | Date):
                yield column.std

    def save(self, folder: Path) -> None:
        """Write the columns beside a compiled model."""
        (folder / FILE).write_bytes(msgspec.json.encode(self))


def one_hot(places: np.ndarray, width: int) -> np.ndarray:
    """Rows (N, width) of zeros with one 1, at `places`."""
    told = np.zeros((len(places), width), np.float32)
    told[np.arange(len(places)), places] = 1
    return told


def wrong(index: int, what: str, names: Sequence[str] | None = None) -> InvalidInput:
    """What is told of a row that cannot be read."""
    hint = f"The columns are {', '.join(names[:50])}." if names else None
    return InvalidInput(f"inputs[{index}]: {what}.", hint=hint, param="inputs")
