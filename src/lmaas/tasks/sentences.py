"""Where a text's sentences begin and end, in any language that marks them; and smaller pieces.

What is cut and what lies between, put together, is the text again. Every function takes time in
proportion to the text. Knows no models.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_ABBREVIATIONS: Final = (
    "adj approx apr asst aug ave bd bldg blvd bzgl bzw ca capt cf cmd co col corp dec dept dez "
    "dir dr dra ed eds eig engl est ev evtl exp feb fig figs fr fri gen gov hl hon hr hrsg inc "
    "inkl insb int jan jg jh jhd jr jul jun kap lt ltd m maj mar max med mgr mi min mio misc "
    "mlle mme mr mrd mrs ms mt mwst nb no nos nov nr num o obs oct okt op orig p par pp prof "
    "pt r rd ref rep rev s sen sep sept sog sr sra srta st str tel tsp u ud uds univ usf "
    "v vgl vol vols vs z zzgl"
)
ABBREVIATIONS: Final = frozenset(_ABBREVIATIONS.split())
"""Words that keep their full stop inside a sentence, in English and its neighbours."""
WIDE: Final = "。！？｡．"
"""Marks that end a sentence with no blank after them."""
NARROW: Final = ".!?…؟۔।॥։።"
CLOSERS: Final = "\"'”’»›)]}」』）】》〉"
OPENERS: Final = "\"'“‘„«‹([{「『（【《〈¿¡-–—"
CLAUSES: Final = re.compile(r"[,;:،、；：，–—]\s*")
LONGEST_WORD: Final = 24
"""Of a word before a full stop, so much is looked at."""

_END = re.compile(
    # Possessive, and never begun inside a row of marks: a row of any length is looked at once.
    rf"(?<![{re.escape(NARROW)}])[{re.escape(NARROW)}]++[{re.escape(CLOSERS)}]*+(?=\s)"
    rf"|[{WIDE}]++[{re.escape(CLOSERS)}]*+"
)
_LINE = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Span(NamedTuple):
    """A sentence: from `start` to `end` of its text."""

    start: int
    end: int


def sentences(text: str, *, lines: bool = True) -> Iterator[Span]:
    """The sentences of a text, none empty; blanks around them are in none.

    With `lines` a line's end is a sentence's too.
    """
    start = 0
    if lines:
        for found in _LINE.finditer(text):
            yield from _of_line(text, start, found.start())
            start = found.end()
    yield from _of_line(text, start, len(text))


def _of_line(text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for found in _END.finditer(text, start, end):
        if found.end() < end and not _ends(text, found, end):
            continue
        yield from _trimmed(text, begin, found.end())
        begin = found.end()
    yield from _trimmed(text, begin, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield Span(start, end)


def _ends(text: str, found: re.Match[str], end: int) -> bool:
    """Whether a mark ends its sentence."""
    mark = found.group()
    if mark[0] in WIDE:
        return True
    after = found.end()
    while after < end and (text[after].isspace() or text[after] in OPENERS):
        after += 1
    following = text[after] if after < end else ""
    if following.islower():
        return False
    if not mark.startswith(".") or len(mark.rstrip(CLOSERS)) > 1:
        return True
    first = max(0, found.start() - LONGEST_WORD)
    before = text[first : found.start()].split()
    word = before[-1].lstrip(OPENERS) if before else ""
    last = word.rpartition(".")[2]
    if last.isdigit() and len(word) <= 2:
        return False  # "3. Mai", "1. First"
    initial = len(last) == 1 and last.isalpha() and (last.isupper() or "." in word)
    return not (initial or last.lower() in ABBREVIATIONS)


def cut(text: str, most: int, measure: Callable[[str], int], chars: int) -> list[Span]:
    """The pieces of a sentence that each measure at most `most`, as few as come easily.

    Cut after clauses, else between words, else between characters. `chars` is a number of
    characters above which a piece is cut unmeasured. Raises ValueError where one character alone is
    too long.
    """
    waiting, found = [Span(0, len(text))], []
    while waiting:
        start, end = waiting.pop()
        piece = text[start:end]
        if not piece.strip():
            continue
        if len(piece) <= chars and measure(piece) <= most:
            found.append(Span(start, end))
            continue
        if len(piece) == 1:
            raise ValueError(piece)
        middle = start + (_boundary(piece, chars) if len(piece) > chars else _boundary(piece, 0))
        waiting += [Span(middle, end), Span(start, middle)]
    return [span for each in found for span in _trimmed(text, *each)]


def _boundary(piece: str, most: int) -> int:
    """Where to cut a piece: near its middle, or with `most` as late as that allows."""
    wanted = most or len(piece) // 2
    low, high = (wanted // 2, wanted) if most else (len(piece) // 4, len(piece) * 3 // 4)
    best = 0
    for found in CLAUSES.finditer(piece, low, max(low + 1, high)):
        if not best or abs(found.end() - wanted) < abs(best - wanted):
            best = found.end()
    if not best:
        for at in range(low, high):
            if piece[at].isspace() and (not best or abs(at + 1 - wanted) < abs(best - wanted)):
                best = at + 1
    return best if 0 < best < len(piece) else max(1, min(wanted, len(piece) - 1))
