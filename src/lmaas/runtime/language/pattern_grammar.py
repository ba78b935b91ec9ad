"""Regular expressions of JSON schemas (ECMA 262) as grammars of what a JSON string holds.

What XGrammar makes of a pattern lets quotes and control characters into the text. Here each
character is written as JSON has it. Assertions and references back are refused.
"""

import re
from typing import Final

from lmaas.runtime.language.ebnf import Ranges, complement, either, merge, one_of

MAX_DEPTH: Final = 50
MOST_TIMES: Final = 100_000
_TIMES: Final = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
_DIGITS: Final[Ranges] = ((0x30, 0x39),)
_WORD: Final[Ranges] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Final[Ranges] = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_LINE_ENDS: Final[Ranges] = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES: Final = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C, "v": 0x0B, "0": 0}


class Unfit(Exception):
    """A pattern or a schema that cannot be kept; the message says why."""


def pattern(text: str) -> str:
    """The grammar of strings, without their quotes, in which `text` is found. Raises Unfit."""
    parser = _Parser(text)
    found = parser.choice(top=True)
    if parser.at < len(text):
        raise Unfit(f"the pattern {text[:80]!r} has a parenthesis too many")
    return found


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._depth = 0

    def choice(self, *, top: bool = False) -> str:
        """Alternatives, up to the end or a closing parenthesis."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unfit("the pattern is nested too deeply")
        branches = [self._branch(top)]
        while self._next() == "|":
            self.at += 1
            branches.append(self._branch(top))
        self._depth -= 1
        return either(branches)

    def _branch(self, top: bool) -> str:
        parts: list[str] = []
        begins = top and self._next() == "^"
        if begins:
            self.at += 1
        ends = False
        while (character := self._next()) not in ("", "|", ")"):
            if top and character == "$":
                self.at += 1
                if self._next() not in ("", "|"):
                    raise self._unfit("has `$` in its midst")
                ends = True
                break
            parts.append(self._repeated())
        if top and not begins:
            parts.insert(0, "char*")
        if top and not ends:
            parts.append("char*")
        return " ".join(parts) or '""'

    def _repeated(self) -> str:
        item = self._atom()
        times = _TIMES.match(self.text, self.at)
        character = self._next()
        if character and character in "*+?":
            self.at += 1
            item += character
        elif times:
            self.at = times.end()
            least = int(times[1])
            most = least if times[2] is None else int(times[3]) if times[3] else None
            if max(least, most or 0) > MOST_TIMES:
                raise self._unfit(f"repeats more than {MOST_TIMES} times")
            if most is not None and most < least:
                raise self._unfit("has a range that ends before it begins")
            item += f"{{{least},{'' if most is None else most}}}"
        else:
            return item
        if self._next() == "?":  # How eagerly it is matched does not change what it matches.
            self.at += 1
        if self._next() in ("*", "+", "?"):
            raise self._unfit("repeats a repetition")
        return item

    def _atom(self) -> str:
        character = self.text[self.at]
        if character == "(":
            return self._group()
        if character == "[":
            return self._set(self._class())
        if character == "\\":
            return self._set(self._escape())
        if character in "^$*+?":
            raise self._unfit(f"has {character!r} where it means nothing here")
        self.at += 1
        if character == ".":
            return self._set(complement(_LINE_ENDS))
        return self._set(((ord(character), ord(character)),))

    def _group(self) -> str:
        self.at += 1
        if self._next() == "?":
            named = re.compile(r"\?(?::|<[A-Za-z_]\w*>)").match(self.text, self.at)
            if named is None:
                raise self._unfit("has an assertion or a flag, which cannot be kept")
            self.at = named.end()
        inside = self.choice()
        if self._next() != ")":
            raise self._unfit("has a parenthesis that is not closed")
        self.at += 1
        return f"({inside})"

    def _class(self) -> Ranges:
        self.at += 1
        negated = self._next() == "^"
        self.at += negated
        found: list[tuple[int, int]] = []
        while (character := self._next()) != "]":
            if not character:
                raise self._unfit("has a bracket that is not closed")
            low = self._member()
            follows = self.text[self.at : self.at + 2]
            if len(follows) == 2 and follows[0] == "-" and follows[1] != "]":
                self.at += 1
                high = self._member()
                if not (_is_one(low) and _is_one(high)) or high[0][0] < low[0][0]:
                    raise self._unfit("has a range that is none")
                found.append((low[0][0], high[0][0]))
            else:
                found += low
        self.at += 1
        return complement(found) if negated else merge(found)

    def _member(self) -> Ranges:
        if self._next() == "\\":
            return self._escape(inside=True)
        code = ord(self.text[self.at])
        self.at += 1
        return ((code, code),)

    def _escape(self, *, inside: bool = False) -> Ranges:
        kind = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if kind.lower() in _CLASSES and kind:
            ranges = _CLASSES[kind.lower()]
            return complement(ranges) if kind.isupper() else ranges
        if kind in _CONTROLS and not (kind == "0" and self._next().isdigit()):
            return ((_CONTROLS[kind],) * 2,)
        if kind == "b" and inside:
            return ((8, 8),)
        if kind in ("x", "u"):
            code = self._code(kind)
            return ((code, code),)
        if not kind or kind.isalnum():
            raise self._unfit(f"has \\{kind}, which cannot be kept")
        return ((ord(kind),) * 2,)

    def _code(self, kind: str) -> int:
        form = r"[0-9a-fA-F]{2}" if kind == "x" else r"\{[0-9a-fA-F]{1,6}\}|[0-9a-fA-F]{4}"
        found = re.compile(form).match(self.text, self.at)
        if found is None:
            raise self._unfit(f"has \\{kind} without a number")
        self.at = found.end()
        code = int(found[0].strip("{}"), 16)
        low = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(self.text, self.at)
        if 0xD800 <= code < 0xDC00 and low is not None:
            self.at = low.end()
            return 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        return code

    def _set(self, ranges: Ranges) -> str:
        found = one_of(ranges)
        if found is None:
            raise self._unfit("has a set that no character is in")
        return found

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _unfit(self, why: str) -> Unfit:
        return Unfit(f"the pattern {self.text[:80]!r} {why}")


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
