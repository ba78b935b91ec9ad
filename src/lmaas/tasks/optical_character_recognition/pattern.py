"""What texts can be: a small grammar for plates, article numbers and dates, read into a tree.

`A` is a letter A-Z, `a` one of a-z, `0` a digit, `X` a letter A-Z or a digit, `.` any character;
`[ABD-F]` is one of those; `(one|other)` one of several; `?` after something leaves it open, `{3}`
and `{1,3}` repeat it. Any other character stands for itself, as one after `\\` does.
"""

from typing import Final

import msgspec

from lmaas.errors import InvalidInput

MOST_CHARS: Final = 256
MOST_DEPTH: Final = 16
MOST_TIMES: Final = 64
UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS: Final = "0123456789"
CLASSES: Final = {"A": UPPER, "a": UPPER.lower(), "0": DIGITS, "X": UPPER + DIGITS}
SPECIAL: Final = "()[]{}|?"
HINT: Final = (
    "A is A-Z, a is a-z, 0 a digit, X a letter or a digit, . any character, [ABC] one of these, "
    "(AA|A) one or the other, ? leaves out, {1,3} repeats, \\ takes the next as it is."
)


class Choice(msgspec.Struct, frozen=True):
    """One character of `characters` (None: any); `told` is how the pattern says it."""

    characters: frozenset[str] | None
    told: str


class Row(msgspec.Struct, frozen=True):
    """One part after another."""

    parts: tuple["Part", ...]


class Either(msgspec.Struct, frozen=True):
    """One of several."""

    parts: tuple["Part", ...]


class Times(msgspec.Struct, frozen=True):
    """The same `least` to `most` times."""

    part: "Part"
    least: int
    most: int


Part = Choice | Row | Either | Times


def parse(pattern: str) -> Part:
    """The tree of a pattern. Raises InvalidInput for what is none."""
    if len(pattern) > MOST_CHARS:
        raise refused(pattern, f"it has more than {MOST_CHARS} characters")
    reader = _Reader(pattern)
    whole = reader.either(0)
    if reader.next:
        raise refused(pattern, f"{reader.next!r} at {reader.at + 1} closes nothing")
    return whole


def refused(pattern: str, why: str) -> InvalidInput:
    """What tells that a pattern cannot be honoured."""
    return InvalidInput(
        f"The pattern {pattern[:MOST_CHARS]!r} cannot be read by: {why}.",
        hint=HINT,
        param="pattern",
    )


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    @property
    def next(self) -> str:
        """The next character; "" at the end."""
        return self._pattern[self.at : self.at + 1]

    def either(self, depth: int) -> Part:
        """Alternatives, up to what ends them."""
        if depth > MOST_DEPTH:
            raise refused(self._pattern, f"it is nested more than {MOST_DEPTH} deep")
        parts = [self._row(depth)]
        while self.next == "|":
            self.at += 1
            parts.append(self._row(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _row(self, depth: int) -> Part:
        parts = []
        while self.next not in ("", "|", ")"):
            parts.append(self._repeated(self._one(depth)))
        return Row(tuple(parts))

    def _one(self, depth: int) -> Part:
        character = self._take()
        if character == "(":
            inner = self.either(depth + 1)
            self._close(")")
            return inner
        if character == "[":
            return self._set()
        if character == "\\":
            literal = self._take()
            return Choice(frozenset(literal), literal)
        if character == ".":
            return Choice(None, ".")
        if character in CLASSES:
            return Choice(frozenset(CLASSES[character]), character)
        if character in SPECIAL:
            raise refused(self._pattern, f"{character!r} at {self.at} has nothing before it")
        if character in "*+":
            told = f"{character!r} has no end; say how often at most, as {{1,8}}, or \\{character}"
            raise refused(self._pattern, told)
        return Choice(frozenset(character), character)

    def _set(self) -> Part:
        begins = self.at - 1
        found: set[str] = set()
        if self.next == "^":
            raise refused(self._pattern, "a set says what can be, not what cannot: no [^…]")
        while self.next != "]":
            first = self._literal()
            last = first
            if self.next == "-" and self._pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self._literal()
            if not 0 <= ord(last) - ord(first) < 1 << 16:
                raise refused(self._pattern, f"{first}-{last} is no range")
            found.update(map(chr, range(ord(first), ord(last) + 1)))
        self.at += 1
        told = self._pattern[begins : self.at]
        if not found:
            raise refused(self._pattern, f"{told} is empty")
        return Choice(frozenset(found), told)

    def _literal(self) -> str:
        character = self._take()
        return self._take() if character == "\\" else character

    def _repeated(self, part: Part) -> Part:
        if self.next == "?":
            self.at += 1
            return self._repeated(Times(part, 0, 1))
        if self.next != "{":
            return part
        self.at += 1
        ends = self._pattern.find("}", self.at)
        told = self._pattern[self.at : ends] if ends >= 0 else self._pattern[self.at :]
        least, comma, most = told.partition(",")
        numbers = [least, most] if comma else [least]
        if ends < 0 or not all(each.isascii() and each.isdecimal() for each in numbers):
            raise refused(self._pattern, f"{{{told} is no number of times, as {{3}} or {{1,3}}")
        # Of more digits than any bound, int would take its time.
        low, high = int(numbers[0][:9]), int(numbers[-1][:9])
        if not low <= high <= MOST_TIMES or high < 1:
            raise refused(
                self._pattern, f"{{{told}}}: the number of times is from 1 to {MOST_TIMES}"
            )
        self.at = ends + 1
        return self._repeated(Times(part, low, high))

    def _take(self) -> str:
        if not self.next:
            raise refused(self._pattern, "it ends in the middle")
        self.at += 1
        return self._pattern[self.at - 1]

    def _close(self, bracket: str) -> None:
        if self._take() != bracket:
            raise refused(self._pattern, f"{bracket} is missing")
