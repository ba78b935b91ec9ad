"""A text taken apart into sentences that are translated, and put together again around them."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.tasks import markup, sentences

ENDS: Final = sentences.WIDE + sentences.CLOSERS
WIDE_FROM: Final = "\u2e80"
"""From here on characters stand without blanks between sentences (Chinese, Japanese)."""


class Sentence(msgspec.Struct):
    """What is translated: `text` of a run from `start` to `end`."""

    start: int
    end: int
    text: str


class Document:
    """One text of a request. `texts` are what is to be translated, in order."""

    def __init__(
        self, text: str, *, html: bool, cut: Callable[[str], list[sentences.Span]]
    ) -> None:
        self._html = html
        self._runs = markup.runs(text) if html else [markup.Run("", text, [])]
        self._found = [self._sentences(run.text, cut) for run in self._runs]

    @property
    def texts(self) -> list[str]:
        """What is translated."""
        return [sentence.text for found in self._found for sentence in found]

    def _sentences(self, text: str, cut: Callable[[str], list[sentences.Span]]) -> list[Sentence]:
        found = []
        for start, end in sentences.sentences(text, lines=not self._html):
            for piece in cut(text[start:end]):
                first, last = start + piece.start, start + piece.end
                words = text[first:last]
                # In HTML any blanks are one.
                found.append(
                    Sentence(first, last, " ".join(words.split()) if self._html else words)
                )
        return found

    def joined(self, translations: Sequence[str]) -> str:
        """The document with a translation in the place of each sentence."""
        waiting = iter(translations)
        parts = []
        for run, found in zip(self._runs, self._found, strict=True):
            parts.append(run.raw)
            at, marks = 0, list(run.marks)
            for sentence in found:
                translation = next(waiting).strip()
                gap, marks = self._until(run.text, at, sentence.start, marks)
                parts.append(gap)
                ended = bool(at) and run.text[at - 1] in ENDS
                if not gap and ended and _needs_blank(parts[-2], translation):
                    parts.append(" ")
                parts.append(self._placed(run.text, sentence, marks, translation))
                marks = [mark for mark in marks if mark.at > sentence.end]
                at = sentence.end
            rest, _ = self._until(run.text, at, len(run.text) + 1, marks)
            parts.append(rest)
        return "".join(parts)

    def _until(
        self, text: str, at: int, end: int, marks: list[markup.Mark]
    ) -> tuple[str, list[markup.Mark]]:
        """What lies between two sentences, and the marks that come later."""
        gap = text[at:end]
        if not self._html:
            return gap, marks
        here = [mark for mark in marks if mark.at < end]
        moved = [markup.Mark(mark.at - at, mark.raw, mark.closes) for mark in here]
        return markup.placed(gap, moved), marks[len(here) :]

    def _placed(
        self, text: str, sentence: Sentence, marks: list[markup.Mark], translation: str
    ) -> str:
        if not self._html:
            return translation
        here = [
            markup.Mark(mark.at - sentence.start, mark.raw, mark.closes)
            for mark in marks
            if mark.at <= sentence.end
        ]
        own = text[sentence.start : sentence.end]
        return markup.placed(translation, markup.moved(here, own, translation))


def _needs_blank(before: str, after: str) -> bool:
    """Whether sentences that had nothing between them are of a language that puts a blank there."""
    return bool(before and after) and before[-1] < WIDE_FROM and after[0] < WIDE_FROM


def cutter(
    measure: Callable[[str], int], most: int, chars: int
) -> Callable[[str], list[sentences.Span]]:
    """What cuts a sentence into pieces of at most `most` tokens. It raises InvalidInput."""

    def cut(sentence: str) -> list[sentences.Span]:
        try:
            return sentences.cut(sentence, most, measure, chars)
        except ValueError:
            raise InvalidInput(
                f"One character alone has more tokens than the model reads, which is {most}.",
                param="inputs",
            ) from None

    return cut
