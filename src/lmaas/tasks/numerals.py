"""Numbers as people write them: which notation a column is in, and its cells as floats.

Owns decimal marks, marks between thousands, currencies, percent and units, and which texts say that
a value is missing. Training finds a column's notation and serving reads with it, so `2883` and
`"2,883"` are one number on both sides. Knows no files.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from lmaas.types import Record

MISSING: Final = frozenset(
    ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None", "?", "n/a", "<NA>", "NaT")
)
"""What a cell of text says when it has no value, blanks around it aside."""
NO_NUMBER: Final = MISSING | {"-", "--", ".", "–", "—"}
"""The same in a column of numbers."""
PLAIN: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
"""A number as programs write it."""
MAX_EXACT_DIGITS: Final = 15
"""Whole numbers with more digits are no floats any more: card numbers, keys."""

Decimal = Literal[".", ","]

_SIGN = r"[+\-−]?"
_SYMBOL = r"(?:(?:US|A|C|NZ|HK|S|R|CA|AU)?\$|[€£¥₹₽₩₺₴฿₫₦₱₪])"
_CODES = (
    "USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RON|BGN|BRL|MXN|ARS|CLP|"
    "COP|ZAR|KRW|RUB|UAH|TRY|ILS|SGD|HKD|TWD|THB|IDR|MYR|PHP|VND|AED|SAR|EGP|NGN|KES|BTC|ETH"
)
_CURRENCY = rf"(?:{_SYMBOL}|(?:{_CODES})(?![A-Za-z])|Rs\.?(?![A-Za-z]))"
_UNIT = r"(?:[%‰]|°\s?[CFK]?|[^\W\d_][^\W\d_.·]{0,11}[23²³]?\.?(?:\s?/\s?[^\W\d_]{1,8}[23²³]?)?)"
_BLANKS = " \u00a0\u2009\u202f"
_BETWEEN: Final[dict[Decimal, str]] = {".": rf",{_BLANKS}'’_", ",": rf".{_BLANKS}'’_"}


def _pattern(decimal: Decimal) -> re.Pattern[str]:
    point, between = re.escape(decimal), _BETWEEN[decimal]
    # Groups of three, or as in India of two before the last one; a group's mark is one throughout.
    grouped = rf"[1-9]\d{{0,2}}(?P<mark>[{between}])(?:\d\d(?P=mark))*\d{{3}}(?:(?P=mark)\d{{3}})*"
    digits = rf"(?P<digits>(?:{grouped}|\d+)(?:{point}\d*)?|{point}\d+)"
    return re.compile(
        rf"(?P<open>\()?(?P<sign>{_SIGN})\s?(?P<before>{_CURRENCY})?\s?(?P<inner>{_SIGN}){digits}"
        rf"(?P<exponent>[eE][+\-−]?\d+)?\s?(?P<after>{_SYMBOL}|{_UNIT})?(?P<last>-)?(?P<close>\))?"
    )


_PATTERNS: Final = {mark: _pattern(mark) for mark in (".", ",")}
_LEADING_ZERO: Final = re.compile(r"[+-]?0\d+")


class Notation(Record, frozen=True, kw_only=True):
    """How a column's numbers are written: the decimal mark, and the unit or currency beside them.

    The other of "." and ",", blanks, apostrophes and underscores may stand between thousands. A
    cell without the unit is read as one with it; a percentage is the number before the sign.
    """

    decimal: Decimal = "."
    unit: str = ""

    def told(self) -> str:
        """In words, for people."""
        mark = "a decimal comma" if self.decimal == "," else "a decimal point"
        return f"{mark} and the unit {self.unit}" if self.unit else mark


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a column of texts holds: the `share` of numbers in `notation`.

    `plain` says that all are as programs write them, `code` that the digits are a name: they begin
    with zeros, or are more than a float can tell apart. `example` is a number that is not plain,
    `other` a cell that is no number, if any.
    """

    share: float
    notation: Notation
    plain: bool = True
    code: bool = False
    example: str = ""
    other: str = ""


def parse(text: str, notation: Notation) -> float | None:
    """A cell as a number, NaN where it says that there is none; None where it is no number."""
    text = text.strip()
    if text in NO_NUMBER:
        return math.nan
    read = _read(text, notation.decimal)
    if read is None or read[1] not in ("", notation.unit):
        return None
    return read[0]


def find(texts: Iterable[tuple[str, int]], decimal: Decimal | None = None) -> Found | None:
    """What a column of these texts holds, each with how often it stands there; None if nothing.

    The decimal mark is the one in which more of the cells are numbers. Where both read all of them
    ("5,123"), a comma stands between thousands and a point is one; `decimal` says otherwise.
    """
    marks: Sequence[Decimal] = (decimal,) if decimal else (".", ",")
    cells = [(text.strip(), count) for text, count in texts]
    cells = [(text, count) for text, count in cells if text not in NO_NUMBER]
    if not cells:
        return None
    total = sum(count for _, count in cells)
    best: tuple[int, Notation] | None = None
    for mark in marks:
        units: Counter[str] = Counter()
        for text, count in cells:
            read = _read(text, mark)
            if read is not None:
                units[read[1]] += count
        bare = units.pop("", 0)
        unit, named = units.most_common(1)[0] if units else ("", 0)
        if best is None or bare + named > best[0]:
            best = bare + named, Notation(decimal=mark, unit=unit)
    assert best is not None
    good, notation = best
    other = example = ""
    for text, _ in cells:
        number = parse(text, notation)
        if number is None:
            other = other or text
        elif not re.match(PLAIN, text):
            example = example or text
    return Found(
        share=good / total,
        notation=notation,
        plain=not example,
        code=any(_is_code(text) for text, _ in cells),
        example=example,
        other=other,
    )


def _is_code(text: str) -> bool:
    digits = text.lstrip("+-")
    return bool(_LEADING_ZERO.fullmatch(text)) or (
        digits.isdecimal() and len(digits) > MAX_EXACT_DIGITS
    )


def _read(text: str, decimal: Decimal) -> tuple[float, str] | None:
    """The number and its unit."""
    found = _PATTERNS[decimal].fullmatch(text)
    if found is None or (found["open"] is None) != (found["close"] is None):
        return None
    before, after = found["before"], found["after"]
    if before and after and before != after:
        return None
    signs = [found["sign"], found["inner"], found["last"] or "", "-" if found["open"] else ""]
    if sum(map(bool, signs)) > 1:
        return None
    digits = found["digits"]
    if found["mark"]:
        digits = digits.replace(found["mark"], "")
    if decimal == ",":
        digits = digits.replace(",", ".")
    exponent = (found["exponent"] or "").replace("−", "-")
    value = float(digits + exponent)
    if math.isinf(value):
        return None
    return (-value if any(sign in ("-", "−") for sign in signs) else value), _unit(before or after)


def _unit(text: str | None) -> str:
    return "" if text is None else "".join(text.split()).rstrip(".")
