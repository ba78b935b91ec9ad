"""What in an HTML text is to be read, and where its tags lie: scanned once, from left to right.

Nothing is parsed into a tree, so depth costs nothing. Scripts, styles, comments, code and elements
with translate="no" are left alone; so is what follows a tag, comment or script that never ends.
Tags of text (`<b>`, `<a>`, …) stay inside a run, as marks at their places; all others end one.
"""

import html
import re
from bisect import bisect_right
from typing import Final

import msgspec

_INLINE: Final = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q ruby s "
    "samp small span strike strong sub sup time tt u var wbr"
)
INLINE: Final = frozenset(_INLINE.split())
LEFT_ALONE: Final = frozenset(("code", "kbd", "math", "samp", "svg"))
RAW: Final = frozenset(("script", "style"))
_VOID: Final = "area base br col embed hr img input link meta param source track wbr"
VOID: Final = frozenset(_VOID.split())
_NAME = re.compile(r"/?([a-zA-Z][^\s/>]*)")
_QUOTE = re.compile(r"[\"'>]")
_NO = re.compile(
    r"\stranslate\s*=\s*[\"']?no[\"'\s>/]|\sclass\s*=\s*[\"'][^\"']*\bnotranslate\b", re.I
)


class Mark(msgspec.Struct, frozen=True):
    """What stands as it is at a place of a run's text; `closes` what is before it."""

    at: int
    raw: str
    closes: bool = False


class Run(msgspec.Struct):
    """Text that is read in one piece, with `marks` in it; `raw` comes before it as it is."""

    raw: str
    text: str
    marks: list[Mark]


def runs(source: str) -> list[Run]:
    """The runs of a document, the last of them with what is left at its end."""
    return _Scanner(source).scan()


def escaped(text: str) -> str:
    """A text as it stands in HTML."""
    return html.escape(text, quote=False).replace("\xa0", "&nbsp;")


class _Scanner:
    def __init__(self, source: str) -> None:
        self.source = source
        self.done: list[Run] = []
        self.raw: list[str] = []
        self.texts: list[str] = []
        self.marks: list[Mark] = []
        self.size = 0

    def scan(self) -> list[Run]:
        source, at = self.source, 0
        while at < len(source):
            opened = source.find("<", at)
            if opened < 0:
                opened = len(source)
            if opened > at:
                self.read(source[at:opened])
                at = opened
                continue
            end, name, inline = self.construct(at)
            if end == at:
                self.read("<")
                at += 1
                continue
            self.keep(source[at:end], inline=inline, closes=name.startswith("/"))
            at = end
        self.end()
        if self.raw or not self.done:
            self.done.append(Run("".join(self.raw), "", []))
        return self.done

    def construct(self, at: int) -> tuple[int, str, bool]:
        """The end of the tag, comment or element at a `<`, its name, and whether it is inline.

        The end is `at` where it is none of them.
        """
        source = self.source
        if source.startswith("<!--", at):
            return self.after("-->", at + 4), "", True
        if source.startswith(("<!", "<?"), at):
            return self.after(">", at + 2), "", False
        found = _NAME.match(source, at + 1)
        if found is None:
            return at, "", False
        end, name = self.tag_end(found.end()), found.group(1).lower()
        if found.group().startswith("/"):
            return end, f"/{name}", name in INLINE
        tag = source[at:end]
        if name in RAW:
            return self.after_element(name, end), name, False
        alone = tag.endswith("/>") or name in VOID
        if (name in LEFT_ALONE or _NO.search(tag)) and not alone:
            return self.after_element(name, end), name, name in INLINE
        return end, name, name in INLINE

    def after(self, what: str, at: int) -> int:
        found = self.source.find(what, at)
        return len(self.source) if found < 0 else found + len(what)

    def tag_end(self, at: int) -> int:
        """After the `>` of a tag that is none within quotes; the end where there is none."""
        while True:
            found = _QUOTE.search(self.source, at)
            if found is None:
                return len(self.source)
            if found.group() == ">":
                return found.end()
            at = self.after(found.group(), found.end())

    def after_element(self, name: str, at: int) -> int:
        """After the end tag of the element whose start tag ends at `at`, elements of its name
        inside it counted."""
        depth = 1
        edges = re.compile(rf"<(/?){re.escape(name)}(?=[\s/>])", re.I)
        for found in edges.finditer(self.source, at):
            if name in RAW and not found.group(1):
                continue
            depth += -1 if found.group(1) else 1
            if not depth:
                return self.after(">", found.end())
        return len(self.source)

    def read(self, text: str) -> None:
        text = html.unescape(text)
        self.texts.append(text)
        self.size += len(text)

    def keep(self, raw: str, *, inline: bool, closes: bool) -> None:
        if inline:
            self.marks.append(Mark(self.size, raw, closes))
            return
        self.end()
        self.raw.append(raw)

    def end(self) -> None:
        """Close the run that is open."""
        text = "".join(self.texts)
        if text.strip():
            self.done.append(Run("".join(self.raw), text, self.marks))
            self.raw = []
        else:
            self.raw.append(placed(text, self.marks))
        self.texts, self.marks, self.size = [], [], 0


def placed(text: str, marks: list[Mark]) -> str:
    """A text with marks at their places, as HTML."""
    parts, at = [], 0
    for mark in marks:
        parts += [escaped(text[at : mark.at]), mark.raw]
        at = mark.at
    return "".join([*parts, escaped(text[at:])])


_WORD = re.compile(r"\S+")


def moved(marks: list[Mark], before: str, after: str) -> list[Mark]:
    """Marks of a sentence in its translation: as many words of a hundred stand before each.

    Their order stays, so what was nested well is; what opens goes before a word, what closes after.
    """
    if not marks:
        return []
    own, other = _ends_of(before), _ends_of(after)
    ends = [end for _, end in own]
    found, least = [], 0
    for mark in marks:
        count = round(bisect_right(ends, mark.at) / max(1, len(own)) * len(other))
        if mark.at <= 0 or not other:
            at = 0
        elif mark.at >= len(before):
            at = len(after)
        elif mark.closes:
            at = other[count - 1][1] if count else 0
        else:
            at = other[count][0] if count < len(other) else len(after)
        least = max(least, at)
        # A picture between blanks keeps one on each side.
        alone = 0 < mark.at < len(before) and before[mark.at - 1 : mark.at + 1].isspace()
        found.append(Mark(least, f"{mark.raw} " if alone else mark.raw, mark.closes))
    return found


def _ends_of(text: str) -> list[tuple[int, int]]:
    """Where words begin and end; where there are no blanks, characters."""
    words = [found.span() for found in _WORD.finditer(text)]
    if len(words) == 1 and len(text) > 24:
        return [(at, at + 1) for at in range(len(text))]
    return words
