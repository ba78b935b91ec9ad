"""From the values of training samples to the columns that a tabular model reads."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from lmaas.tasks import dates
from lmaas.tasks.numerals import Notation
from lmaas.tasks.tabular.columns import Category, Date, Number

MAX_VALUES: Final = 256
"""How many values of a category, the most frequent, are told apart by trees."""


def fit_number(name: str, values: np.ndarray, notation: Notation | None = None) -> Number:
    """Mean and deviation of the values that are there; a constant keeps deviation 1."""
    mean, std = _scale(values[~np.isnan(values)])
    return Number(
        name=name,
        mean=mean,
        std=std,
        missing=bool(np.isnan(values).any()),
        notation=notation or Notation(),
    )


def fit_category(name: str, values: Sequence[str | None]) -> Category:
    """The most frequent values first."""
    counts = Counter(value for value in values if value is not None)
    best = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_VALUES]
    return Category(name=name, values=tuple(best))


def fit_date(name: str, parts: np.ndarray, form: str) -> Date:
    """Of dates' parts (N, `dates.PARTS`), the scale of the days, and whether times differ."""
    absent = np.isnan(parts[:, dates.YEAR])
    mean, std = _scale(parts[~absent, dates.ELAPSED])
    hours = parts[~absent, dates.HOUR]
    return Date(
        name=name,
        form=form,
        mean=mean,
        std=std,
        missing=bool(absent.any()),
        time=bool(np.ptp(hours) > 0),
    )


def _scale(known: np.ndarray) -> tuple[float, float]:
    std = float(known.std())
    usable = std > 1e-12 * max(1.0, float(np.abs(known).max()))
    return float(known.mean()), std if usable else 1.0
