"""Parts of grammars in EBNF, as XGrammar reads them: literals, sets of characters, JSON strings.

Written out here and not left to XGrammar's own reading of JSON schemas, which lets control
characters into strings and passes over keywords that it does not know (docs/log.md).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

Ranges = Sequence[tuple[int, int]]
"""Code points from the first to the last of each pair, both included."""

LAST: Final = 0x10FFFF
ALL: Final[Ranges] = ((0, 0xD7FF), (0xE000, LAST))
"""All characters; surrogates are none."""
RAW: Final[Ranges] = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, LAST))
"""Characters that stand in a JSON string as they are."""
ALIKE: Final[Ranges] = (
    (0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFF), (0x1000, 0xCFFF), (0xD000, 0xD7FF), (0xE000, 0xFFFF),
    (0x10000, 0x3FFFF), (0x40000, 0xFFFFF), (0x100000, LAST),
)  # fmt: skip
"""Characters whose bytes in UTF-8 have the same ranges. XGrammar takes a range across them for
ranges of single bytes, lets texts through that are no UTF-8, and then loses its place."""
ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f",
}  # fmt: skip

_HEX: Final = "[0-9a-fA-F]"


_APART: Final = re.compile(r"[\x00-\x1f\x7f-\xff]|[^\x00-\x1f\x7f-\xff]+")


def literal(text: str) -> str:
    """The grammar of just this text.

    XGrammar prints what it has read and reads that again: control characters and U+007F to U+00FF
    as `\\x` and two digits, of which it then takes more than two. So each of them stands apart.
    """
    parts = [f'"{"".join(map(_quoted, part))}"' for part in _APART.findall(text)]
    return f"({' '.join(parts)})" if len(parts) > 1 else parts[0] if parts else '""'


def _quoted(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else _escaped(ord(character))


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def characters(ranges: Ranges) -> str:
    """The grammar of one character of a set that is not empty."""
    parts = (part for alike in ALIKE for part in intersect(ranges, (alike,)))
    return "[" + "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in parts) + "]"


def either(choices: Iterable[str]) -> str:
    """The grammar of any of some."""
    known = list(dict.fromkeys(choices))
    return known[0] if len(known) == 1 else f"({' | '.join(known)})"


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same set, in order and without overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def complement(ranges: Ranges) -> Ranges:
    """All characters that are not in the set."""
    found, start = [], 0
    for low, high in merge(ranges):
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        found.append((start, LAST))
    return intersect(found, ALL)


def intersect(one: Ranges, other: Ranges) -> Ranges:
    """What both sets have."""
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return merge((low, high) for low, high in pairs if low <= high)


_RAW: Final = characters(RAW)
COMMON: Final = {
    "char": rf'{_RAW} | "\\" ["\\/bfnrt] | "\\u" '
    rf"([0-9a-cA-CeEfF] {_HEX} {_HEX} {_HEX} | [dD] [0-7] {_HEX} {_HEX})",
    "string": r'"\"" char* "\""',
    "whole": '"-"? ("0" | [1-9] [0-9]{0,17})',
    "number": 'whole ("." [0-9]{1,17})? ([eE] [+-]? [0-9]{1,2})?',
    "json": 'object | array | string | number | "true" | "false" | "null"',
    "object": '"{" ws (string colon json (comma string colon json)*)? ws "}"',
    "array": '"[" ws (json (comma json)*)? ws "]"',
}
"""Rules that every grammar has; `ws`, `comma` and `colon` are each grammar's own.

Numbers have few digits, and `\\u` spells no surrogate: every client reads every text.
"""


def one_of(ranges: Ranges) -> str | None:
    """One character of a set as a JSON string holds it; None where the set is empty.

    Where others are to be had, rare control characters are left out.
    """
    raw = intersect(ranges, RAW)
    choices = [characters(raw)] if raw else []
    choices += [
        literal(escape)
        for character, escape in ESCAPES.items()
        if any(low <= ord(character) <= high for low, high in ranges)
    ]
    if not choices:
        controls = intersect(ranges, ((0, 0x1F),))
        choices = [
            literal(f"\\u{code:04x}") for low, high in controls for code in range(low, high + 1)
        ]
    return either(choices) if choices else None


def no_such_key(names: Iterable[str]) -> str:
    """The inside of a string that is none of `names`; written without escapes."""
    return _unlike(sorted(set(names)))


def _unlike(names: Sequence[str]) -> str:
    """The grammar of texts that are none of `names`, which are sorted."""
    if not names:
        return f"{_RAW}*"
    heads: dict[str, list[str]] = {}
    for name in names:
        if name:
            heads.setdefault(name[0], []).append(name[1:])
    taken = [(ord(head), ord(head)) for head in heads]
    others = intersect(complement(taken), RAW)
    choices = [f"{characters(others)} {_RAW}*"]
    choices += [
        f"{literal(head)} {_unlike(rests)}"
        for head, rests in heads.items()
        if intersect(((ord(head), ord(head)),), RAW)
    ]
    if "" not in names:
        choices.append('""')
    return either(choices)
