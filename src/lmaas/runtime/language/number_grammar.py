"""Numbers within bounds as grammars: digit by digit, as JSON writes them."""

import math
from decimal import Decimal
from typing import Final, NamedTuple

from lmaas.runtime.language.ebnf import either, literal

MOST_DIGITS: Final = 18
"""Digits of an integer that nothing bounds: so many fit 64 bits."""
MORE: Final = "[0-9]{0,17}"
NOT_ZERO: Final = "[0-9]{0,16} [1-9]"
"""Further digits of a fraction that are not all 0."""


class Bound(NamedTuple):
    """The end of a range; `open`: it is not part of it."""

    value: Decimal
    open: bool = False


def integers(low: Bound | None, high: Bound | None) -> str | None:
    """Integers from `low` to `high`; None where there is none."""
    least = most = None
    if low is not None:
        least = math.floor(low.value) + 1 if low.open else math.ceil(low.value)
    if high is not None:
        most = math.ceil(high.value) - 1 if high.open else math.floor(high.value)
    if least is None and most is None:
        return "whole"
    choices = []
    if least is None or least < 0:
        size = 1 if most is None else max(1, -most)
        choices += [f'"-" {one}' for one in _naturals(size, None if least is None else -least)]
    if most is None or most >= 0:
        choices += _naturals(max(0, least or 0), most)
    return either(choices) if choices else None


def numbers(low: Bound | None, high: Bound | None) -> str | None:
    """Numbers from `low` to `high`; None where there is none."""
    if low is None and high is None:
        return "number"
    choices = []
    if low is None or low.value < 0:
        near = Bound(Decimal(0), open=True)
        if high is not None and high.value < 0:
            near = Bound(-high.value, high.open)
        far = None if low is None else Bound(-low.value, low.open)
        choices += [f'"-" {one}' for one in _positive(near, far)]
    if high is None or high.value >= 0:
        near = low if low is not None and low.value >= 0 else Bound(Decimal(0))
        choices += _positive(near, high)
    return either(choices) if choices else None


def _naturals(low: int, high: int | None) -> list[str]:
    """Numbers from 0 on without a sign."""
    if high is None:
        digits = len(str(low))
        found = _same_length(str(low), "9" * digits)
        if digits < MOST_DIGITS:
            found.append(f"[1-9] [0-9]{{{digits},{MOST_DIGITS - 1}}}")
        return found
    found = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        least = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        most = min(high, 10**digits - 1)
        if least <= most:
            found += _same_length(str(least), str(most))
    return found


def _same_length(low: str, high: str) -> list[str]:
    """Digits from `low` to `high`, which have equally many."""
    if not low:
        return ['""']
    if low[0] == high[0]:
        rest = _same_length(low[1:], high[1:])
        return [f"{literal(low[0])} {either(rest)}" if low[1:] else literal(low[0])]
    first, last, more = int(low[0]), int(high[0]), len(low) - 1
    found = []
    if low[1:].strip("0"):
        found.append(f"{literal(low[0])} {either(_same_length(low[1:], '9' * more))}")
        first += 1
    if high[1:].strip("9"):
        found.append(f"{literal(high[0])} {either(_same_length('0' * more, high[1:]))}")
        last -= 1
    if first <= last:
        found.append(_digit(first, last) + (f" [0-9]{{{more}}}" if more else ""))
    return found


def _positive(low: Bound, high: Bound | None) -> list[str]:
    """Numbers from 0 on without a sign or an exponent."""
    whole, part = _split(low.value)
    if high is None:
        return [
            *(f'{one} ("." [0-9] {MORE})?' for one in _naturals(whole + 1, None)),
            *(f"{literal(str(whole))} {one}" for one in _at_least(part, low.open)),
        ]
    if low.value > high.value or (low.value == high.value and (low.open or high.open)):
        return []
    most, end = _split(high.value)
    if whole == most:
        found = _between(part, low.open, end, high.open)
        return [f"{literal(str(whole))} {one}" for one in found]
    found = [f"{literal(str(whole))} {one}" for one in _at_least(part, low.open)]
    if whole + 1 < most:
        found += [f'{one} ("." [0-9] {MORE})?' for one in _naturals(whole + 1, most - 1)]
    return found + [f"{literal(str(most))} {one}" for one in _at_most(end, high.open)]


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits of the fraction without zeros at their end."""
    text = f"{value:f}"
    whole, _, part = text.partition(".")
    return int(whole), part.rstrip("0")


def _at_least(part: str, is_open: bool) -> list[str]:
    """Fractions from `part` on, their point included."""
    if part:
        return [f'"." {one}' for one in _digits_from(part, is_open)]
    return [f'"." {NOT_ZERO}'] if is_open else [f'("." [0-9] {MORE})?']


def _at_most(part: str, is_open: bool) -> list[str]:
    """Fractions up to `part`, their point included; with none at all."""
    if part:
        return ['""', *(f'"." {one}' for one in _digits_to(part, is_open) if one != '""')]
    return [] if is_open else ['""']


def _between(low: str, low_open: bool, high: str, high_open: bool) -> list[str]:
    """Fractions within two, their point included."""
    found = [] if low or low_open else ['""']
    size = max(len(low), len(high))
    low, high = low.ljust(size, "0"), high.ljust(size, "0")
    same = next((i for i in range(size) if low[i] != high[i]), size)
    if same == size:
        return [f'"." {literal(low)}' if low else '""']
    head = f'"." {literal(low[:same])}' if same else '"."'
    if int(low[same]) + 1 < int(high[same]):
        found.append(f"{head} {_digit(int(low[same]) + 1, int(high[same]) - 1)} {MORE}")
    rest, end = low[same + 1 :].rstrip("0"), high[same + 1 :].rstrip("0")
    found += [f"{head} {literal(low[same])} {one}" for one in _digits_from(rest, low_open)]
    found += [f"{head} {literal(high[same])} {one}" for one in _digits_to(end, high_open)]
    return found


def _digits_from(least: str, is_open: bool) -> list[str]:
    """Digits of a fraction that is at least 0.`least`."""
    if not least:
        return [NOT_ZERO if is_open else MORE]
    found = [
        f"{literal(least[:place])} {_digit(int(least[place]) + 1, 9)} {MORE}"
        for place in range(len(least))
        if least[place] < "9"
    ]
    return [*found, f"{literal(least)} {NOT_ZERO if is_open else MORE}"]


def _digits_to(most: str, is_open: bool) -> list[str]:
    """Digits of a fraction that is at most 0.`most`; none at all among them."""
    if not most:
        return [] if is_open else ['""']
    found = ['""']
    for place, digit in enumerate(most):
        if place:
            found.append(literal(most[:place]))
        if digit > "0":
            found.append(f"{literal(most[:place])} {_digit(0, int(digit) - 1)} {MORE}")
    return found if is_open else [*found, literal(most)]


def _digit(first: int, last: int) -> str:
    return literal(str(first)) if first == last else f"[{first}-{last}]"
