"""What a table's columns are: numbers, dates, names, or nothing to learn from; and its target.

What was chosen is told in words, for people to see before they trust a model.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.tasks.numerals import Found, Notation, parse
from lmaas.tasks.tabular.columns import Column, Columns, Date, Number, Values
from lmaas.tasks.tabular.fitting import fit_category, fit_date, fit_number
from lmaas.tasks.tabular.options import TableDataOptions

FEW: Final = 20
"""Whole numbers with no more different values are taken for classes."""
NEARLY: Final = 0.9
"""A column with this share of numbers (dates) is one of them, and the others are errors."""
DOUBTFUL: Final = 0.5
"""A column of names with this share of numbers is told of."""
CLASS_A_ROW: Final = 0.5
"""A target with so many different values for each row has no classes."""
OWN_VALUE: Final = 0.95
"""A column of names in which such a share is there once only tells rows apart and nothing else."""
ENOUGH: Final = 20
"""With fewer rows a column tells the target by chance."""
ROWS_A_VALUE: Final = 20
SAME: Final = 1 - 1e-9


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the target is one of classes, how its numbers are written, and that in words."""

    classifies: bool
    notation: Notation = Notation()
    told: str


class Chosen(msgspec.Struct, kw_only=True):
    """The columns that are read; why others are not, by name; what was chosen, in words."""

    columns: list[Column] = []
    left_out: dict[str, str] = {}
    told: list[str] = []
    doubts: list[str] = []


def target_of(table: Table, name: str, options: TableDataOptions) -> Target:
    """What is learned. Raises InvalidInput for a target whose every row is nearly its own class."""
    found = table.numerals(name, options.decimals.get(name))
    if options.kind == "regression":
        return _number(name, found, "as data.options.kind says")
    if options.kind == "classification":
        count = len(set(table.values(name)))
        return Target(
            classifies=True, told=f"The target {name!r} is one of {count} classes, as you say."
        )
    if found is None or found.share < NEARLY or found.code:
        return _classes(table, name, found)
    values = np.unique(table.numbers(name, found.notation))
    values = values[~np.isnan(values)]
    whole = bool((values == np.rint(values)).all())
    if len(values) <= FEW and whole:
        told = f"{len(values)} whole numbers are taken for classes: {_few(values)}"
        return Target(
            classifies=True,
            told=f"The target {name!r} is one of classes: {told}. data.options.kind: regression "
            "learns a number.",
        )
    what = f"{len(values)} different {'whole ' if whole else ''}numbers"
    return _number(name, found, f"{what}; data.options.kind: classification makes classes of them")


def choose(table: Table, rows: np.ndarray, target: str, options: TableDataOptions) -> Chosen:
    """What is read of the samples `rows`. Raises InvalidInput where nothing is left."""
    chosen = Chosen()
    for name in table.columns:
        if name == target:
            continue
        if name in options.ignore:
            chosen.left_out[name] = "as data.options.ignore says"
            continue
        read = _column(table, name, rows, options, chosen)
        if isinstance(read, str):
            chosen.left_out[name] = read
        else:
            chosen.columns.append(read)
    if not chosen.columns:
        why = "".join(f" {name!r}: {reason}." for name, reason in [*chosen.left_out.items()][:20])
        raise InvalidInput(f"{table.name} has no column to learn from.{why}", param="data")
    return chosen


def values_of(table: Table, columns: Columns) -> dict[str, Values]:
    """The values of all samples, by column."""
    found: dict[str, Values] = {}
    for column in columns.columns:
        if isinstance(column, Number):
            found[column.name] = table.numbers(column.name, column.notation)
        elif isinstance(column, Date):
            found[column.name] = table.dated(column.name, column.form)
        else:
            found[column.name] = table.categories(column.name)
    return found


def numbers_of(table: Table, name: str, notation: Notation) -> np.ndarray:
    """A target of numbers (N,), NaN where one is missing: such rows are in no part."""
    return table.numbers(name, notation)


def leaks(
    values: Mapping[str, Values], targets: np.ndarray, target: str, classes: int
) -> list[str]:
    """Which columns tell the target by themselves, in words; `classes` is 0 for a number."""
    found = []
    for name, given in values.items():
        told = _is_line(given, targets) if not classes else _is_key(given, targets, classes)
        if told and len(targets) >= ENOUGH:
            found.append(
                f"The column {name!r} tells the target {target!r} all by itself: is it known "
                "before the target is? data.options.ignore leaves it out."
            )
    return found


def _is_line(given: Values, targets: np.ndarray) -> bool:
    """Whether a number is the target, but for its unit."""
    if not isinstance(given, np.ndarray) or given.ndim > 1 or np.isnan(given).any():
        return False
    if np.ptp(given) == 0 or np.ptp(targets) == 0:
        return False
    return bool(abs(np.corrcoef(given, targets)[0, 1]) > SAME)


def _is_key(given: Values, targets: np.ndarray, classes: int) -> bool:
    """Whether few values of a column each stand beside one class, and tell all classes apart."""
    if isinstance(given, np.ndarray) and given.ndim > 1:
        return False
    known: dict[object, int] = {}
    most = max(classes, len(targets) // ROWS_A_VALUE)
    for value, number in zip(list(given), targets.tolist(), strict=True):
        if known.setdefault(value, number) != number or len(known) > most:
            return False
    return len(set(known.values())) == classes


def _column(
    table: Table, name: str, rows: np.ndarray, options: TableDataOptions, chosen: Chosen
) -> Column | str:
    """What a column is, or why it is left out."""
    found = table.numerals(name, options.decimals.get(name))
    if found is None:
        return "no value is there"
    dated = table.dates(name)
    kind = options.kinds.get(name)
    if kind is None:
        kind = "category"
        if dated is not None and dated.share >= NEARLY:
            kind = "date"
        elif found.share >= NEARLY and not found.code:
            kind = "number"
    if kind == "number":
        return _numbers(table, name, rows, found, chosen)
    if kind == "date":
        if dated is None:
            raise InvalidInput(
                f"{table.name}: {name!r} holds no dates that are known.",
                hint="Write them as 2024-01-31.",
                param="data.options.kinds",
            )
        parts = table.dated(name, dated.form)[rows]
        if np.isnan(parts).all():
            return "no value is there"
        if len(np.unique(parts[~np.isnan(parts[:, 0])], axis=0)) == 1:
            return "one value only"
        chosen.told.append(f"{name!r} is read as dates ({dated.form}).")
        if dated.other is not None:
            chosen.doubts.append(
                f"The dates of {name!r} are read as {dated.form}; all of them could be "
                f"{dated.other} as well. Write them as 2024-01-31 if that is wrong."
            )
        return fit_date(name, parts, dated.form)
    return _names(table, name, rows, found, chosen)


def _numbers(
    table: Table, name: str, rows: np.ndarray, found: Found, chosen: Chosen
) -> Column | str:
    numbers = table.numbers(name, found.notation)[rows]
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return "no value is there"
    if np.ptp(known) == 0:
        return "one value only"
    if not found.plain:
        chosen.told.append(
            f"{name!r} is read as numbers with {found.notation.told()}: "
            f"{found.example!r} is {_shown(found)}."
        )
    return fit_number(name, numbers, found.notation)


def _names(table: Table, name: str, rows: np.ndarray, found: Found, chosen: Chosen) -> Column | str:
    cells = table.categories(name)
    names = [cells[row] for row in rows]
    known = [each for each in names if each is not None]
    if not known:
        return "no value is there"
    different = len(set(known))
    if different == 1 and len(known) == len(names):
        return "one value only"
    if len(rows) > FEW and different == len(names):
        return "every row has another value"
    if len(rows) > FEW and different > OWN_VALUE * len(known):
        return "nearly every row has another value"
    if found.code:
        chosen.told.append(f"{name!r} is read as names: its digits are codes, such as '007'.")
    elif DOUBTFUL <= found.share < 1:
        chosen.doubts.append(
            f"{name!r} is read as names, though {found.share:.0%} of its values are numbers; "
            f"{found.other!r} is none."
        )
    return fit_category(name, names)


def _classes(table: Table, name: str, found: Found | None) -> Target:
    values = [value for value in table.values(name) if value is not None]
    different = len(set(values))
    if different > FEW and different >= CLASS_A_ROW * len(values):
        share = "" if found is None or not found.share else f" {found.share:.0%} are numbers;"
        raise InvalidInput(
            f"{table.name}: the target {name!r} has {different} different values in "
            f"{len(values)} rows, nearly a class for each:{share} {str(values[0])[:40]!r} is the "
            "first. Is it a number (regression)?",
            hint="data.options.kind: regression learns a number, and names the first cell that is "
            "none; classification insists on classes; data.columns.target names another column.",
            param="data.options.kind",
        )
    what = "names" if found is None or not found.code else "codes of digits"
    return Target(
        classifies=True, told=f"The target {name!r} is one of {different} classes: {what}."
    )


def _number(name: str, found: Found | None, why: str) -> Target:
    notation = Notation() if found is None else found.notation
    told = f"The target {name!r} is a number (regression): {why}."
    if found is not None and not found.plain:
        told += f" It is read with {notation.told()}: {found.example!r} is {_shown(found)}."
    return Target(classifies=False, notation=notation, told=told)


def _shown(found: Found) -> str:
    return f"{parse(found.example, found.notation):.15g}"


def _few(values: Sequence[float] | np.ndarray) -> str:
    told = ", ".join(f"{value:g}" for value in values[:8])
    return f"{told}, …" if len(values) > 8 else told
