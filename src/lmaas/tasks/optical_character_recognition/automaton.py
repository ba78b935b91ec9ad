"""A pattern as an automaton over a reader's classes: a place for each character of a text, and no
empty transitions (Glushkov, 1961).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np

from lmaas.tasks.optical_character_recognition.pattern import (
    Choice,
    Either,
    Part,
    Row,
    Times,
    parse,
    refused,
)

MOST_PLACES: Final = 256
MOST_CHOICES: Final = 1 << 17
"""Places times the characters of the one that has most: what decoding keeps for each step."""


class Automaton(msgspec.Struct, frozen=True, eq=False):
    """P places; K characters fit the one that most fit.

    `classes` (P, K) are the numbers of the classes that fit each place, filled up with -1, and
    `before` (P, Q) the places that can come before it, filled up with -1. `firsts` (P,) can begin a
    text and `lasts` (P,) end it; `empty`: no characters at all are a text, too. The shortest text
    has `least` characters.
    """

    classes: np.ndarray
    before: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    empty: bool
    least: int

    def accepts(self, numbers: Sequence[int]) -> bool:
        """Whether a text, given by the classes of its characters, has the form."""
        if not numbers:
            return self.empty
        able = self.firsts & (self.classes == numbers[0]).any(axis=1)
        for number in numbers[1:]:
            reached = (able[self.before] & (self.before >= 0)).any(axis=1)
            able = reached & (self.classes == number).any(axis=1)
        return bool((able & self.lasts).any())


class _Piece(msgspec.Struct):
    """A part of an automaton: where it begins and ends, and whether it can be nothing."""

    firsts: frozenset[int] = frozenset()
    lasts: frozenset[int] = frozenset()
    empty: bool = True
    least: int = 0


@lru_cache(maxsize=32)
def automaton(pattern: str, characters: tuple[str, ...], first: int) -> Automaton:
    """The automaton of a pattern over a reader's characters, of which the first is class `first`.

    Raises InvalidInput for what is no pattern, for a place that no character of the reader fits,
    and for one that is too large.
    """
    tree = parse(pattern)
    maker = _Maker(pattern, {each: first + number for number, each in enumerate(characters)})
    whole = maker.make(tree)
    if not maker.classes:
        raise refused(pattern, "it has no place for a character")
    count, widest = len(maker.classes), max(map(len, maker.classes))
    if count * widest > MOST_CHOICES:
        raise refused(pattern, f"{count} places with up to {widest} characters each are too many")
    before: list[list[int]] = [[] for _ in range(count)]
    for place, following in enumerate(maker.followers):
        for other in following:
            before[other].append(place)
    return Automaton(
        classes=_filled(maker.classes),
        before=_filled([sorted(each) for each in before]),
        firsts=_flags(whole.firsts, count),
        lasts=_flags(whole.lasts, count),
        empty=whole.empty,
        least=whole.least,
    )


class _Maker:
    """Makes places of a tree."""

    def __init__(self, pattern: str, numbers: Mapping[str, int]) -> None:
        self._pattern = pattern
        self._numbers = numbers
        self.classes: list[list[int]] = []
        self.followers: list[set[int]] = []

    def make(self, part: Part) -> _Piece:
        """The places of a part, each as often as it is repeated."""
        match part:
            case Choice():
                return self._place(part)
            case Either():
                found = [self.make(each) for each in part.parts]
                return _Piece(
                    firsts=frozenset().union(*(each.firsts for each in found)),
                    lasts=frozenset().union(*(each.lasts for each in found)),
                    empty=any(each.empty for each in found),
                    least=min(each.least for each in found),
                )
            case Times():
                whole = _Piece()
                for number in range(part.most):
                    one = self.make(part.part)
                    if number >= part.least:
                        one = msgspec.structs.replace(one, empty=True, least=0)
                    whole = self._joined(whole, one)
                return whole
            case Row():
                whole = _Piece()
                for each in part.parts:
                    whole = self._joined(whole, self.make(each))
                return whole

    def _place(self, choice: Choice) -> _Piece:
        known = self._numbers
        wanted = known if choice.characters is None else choice.characters & known.keys()
        if not wanted:
            raise refused(self._pattern, f"the reader knows no character that fits {choice.told!r}")
        if len(self.classes) == MOST_PLACES:
            raise refused(self._pattern, f"it has more than {MOST_PLACES} places for characters")
        place = frozenset((len(self.classes),))
        self.classes.append(sorted(known[each] for each in wanted))
        self.followers.append(set())
        return _Piece(firsts=place, lasts=place, empty=False, least=1)

    def _joined(self, one: _Piece, other: _Piece) -> _Piece:
        for place in one.lasts:
            self.followers[place] |= other.firsts
        return _Piece(
            firsts=one.firsts | (other.firsts if one.empty else frozenset()),
            lasts=other.lasts | (one.lasts if other.empty else frozenset()),
            empty=one.empty and other.empty,
            least=one.least + other.least,
        )


def _filled(rows: list[list[int]]) -> np.ndarray:
    most = max([1, *map(len, rows)])
    return np.array([[*row, *[-1] * (most - len(row))] for row in rows], np.int64)


def _flags(places: frozenset[int], count: int) -> np.ndarray:
    found = np.zeros(count, bool)
    found[sorted(places)] = True
    return found
