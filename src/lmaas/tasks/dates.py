"""Dates as people write them: which way a column has them, and what a model reads of each.

Training finds the form and serving reads with it; ISO 8601 is read always. Times of day are kept,
offsets from UTC are taken into account. Knows no files.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
import numpy as np

from lmaas.tasks.numerals import MISSING

ISO: Final = "iso"
_DAY_FORMS: Final = (
    "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y",
    "%m/%d/%y", "%d/%m/%y", "%d.%m.%y",
)  # fmt: skip
_TIMES: Final = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
FORMS: Final = (ISO, *(day + time for day in _DAY_FORMS for time in _TIMES))
"""What is tried, the likelier first: months stand before days where nothing tells otherwise."""
_LOOKS: Final = re.compile(
    r"\s*(?:\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|(?:19|20)\d{6}\s*$|\d{1,2}[ -][A-Za-z]{3,9}[ -]\d{2,4}"
    r"|[A-Za-z]{3,9} \d{1,2}, \d{4})"
)
TRIED: Final = 50
"""A form that none of so many cells is in is given up."""
ENOUGH: Final = 8
"""So many different texts of eight digits are dates and not numbers."""
EPOCH: Final = datetime(1970, 1, 1)
DAY_S: Final = 86_400
YEAR, MONTH, DAY, WEEKDAY, ELAPSED, HOUR = range(6)
PARTS: Final = 6
"""Year, month from 1, day from 1, weekday from Monday's 0, days since 1970, hour of the day."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a column of texts holds: the `share` of dates in `form`.

    `other` is a second form that reads as many of them, day and month the other way round.
    """

    share: float
    form: str
    other: str | None = None


def parse(text: str, form: str) -> datetime | None:
    """A cell as a date without an offset, in UTC if it had one; None where it is none."""
    text = text.strip()
    for read in (_iso, partial(_formed, form=form)):
        found = read(text)
        if found is not None:
            return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    return None


def find(texts: Iterable[tuple[str, int]]) -> Found | None:
    """What a column of these texts holds, each with how often it stands there; None: no dates."""
    cells = [(text.strip(), count) for text, count in texts]
    cells = [(text, count) for text, count in cells if text not in MISSING]
    if not cells or not any(_LOOKS.match(text) for text, _ in cells[:TRIED]):
        return None
    total = sum(count for _, count in cells)
    best: Found | None = None
    for form in FORMS:
        if form == "%Y%m%d" and len(cells) < ENOUGH:
            continue
        read = _iso if form == ISO else partial(_formed, form=form)
        if not any(read(text) for text, _ in cells[:TRIED]):
            continue
        share = sum(count for text, count in cells if read(text)) / total
        if best is None or share > best.share:
            best = Found(share=share, form=form)
        elif share == best.share and share and best.other is None:
            best = msgspec.structs.replace(best, other=form)
    return best


def parts(texts: Iterable[str | None], form: str) -> np.ndarray:
    """What is read of each date, (N, PARTS) float64; NaN throughout where there is none."""
    known: dict[str, tuple[float, ...]] = {}
    rows: list[tuple[float, ...]] = []
    for text in texts:
        if text is None:
            rows.append(_ABSENT)
            continue
        if text not in known:
            found = parse(text, form)
            known[text] = _ABSENT if found is None else _parts(found)
        rows.append(known[text])
    return np.array(rows, np.float64).reshape(-1, PARTS)


_ABSENT: Final = (float("nan"),) * PARTS


def _parts(date: datetime) -> tuple[float, ...]:
    seconds = (date - EPOCH).total_seconds()
    hour = date.hour + date.minute / 60 + date.second / 3600
    days = float(seconds // DAY_S)
    return float(date.year), float(date.month), float(date.day), float(date.weekday()), days, hour


def _iso(text: str) -> datetime | None:
    if len(text) < 8 or text[4:5] != "-":
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _formed(text: str, form: str) -> datetime | None:
    if form == ISO:
        return None
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None
