"""Which language a text is in, by its runs of letters.

Naive Bayes over runs of one to four letters of words (Cavnar and Trenkle, 1994, chose such runs),
learned from CLDR's tables by `tools/languages.py`. A short text, and one that could be of several
languages, gets a low confidence. Knows no models.
"""

import gzip
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib import resources
from typing import Final

import msgspec

from lmaas.errors import InvalidInput

FILE: Final = "languages.json.gz"
ORDERS: Final = (1, 2, 3, 4)
READ: Final = 2000
"""So many characters of a text are looked at."""
MOST: Final = 130
"""What a run of letters counts that a language does not have: -10 ln p."""
TEMPERATURE: Final = 6.0
"""Runs of letters overlap, so what they say together is divided by this."""
SURE_LETTERS: Final = 14.0
"""Of a text of so many letters a confidence is at most 63 of 100."""
LETTERS: Final = 5
"""A letter beyond ASCII counts so often: few languages have it."""
LISTED: Final = 3

SIGNS: Final = "\u2e80"
"""From here on letters are words or syllables (Chinese, Japanese, Korean): each counts alone."""

_WORD = re.compile(r"[^\W\d_]+")


class Guess(msgspec.Struct, frozen=True):
    """A language, and how sure that is, 0 to 100."""

    confidence: float
    language: str


def grams_of(text: str) -> Counter[str]:
    """Runs of letters, words marked at their ends; how often each is there."""
    found: Counter[str] = Counter()
    folded = unicodedata.normalize("NFC", text[:READ]).lower()
    for word in _WORD.findall(folded):
        if word[0] >= SIGNS:
            found.update(word)
            continue
        marked = f" {word} "
        for order in ORDERS:
            for at in range(len(marked) - order + 1):
                gram = marked[at : at + order]
                if gram != " ":
                    found[gram] += 1
    return found


class Identifier:
    """What was learned of languages."""

    def __init__(
        self,
        grams: Mapping[str, Mapping[str, int]],
        names: Mapping[str, str],
        other: Mapping[str, str],
    ) -> None:
        self.languages = tuple(grams)
        self._names, self._other = names, other
        self._weights: dict[str, list[tuple[int, int]]] = {}
        for place, of in enumerate(grams.values()):
            for gram, weight in of.items():
                self._weights.setdefault(gram, []).append((place, MOST - weight))

    @staticmethod
    @lru_cache(maxsize=1)
    def load() -> "Identifier":
        """The one that is part of the package. Raises InvalidInput where it is not."""
        try:
            packed = resources.files("lmaas.tasks.translation").joinpath(FILE).read_bytes()
        except FileNotFoundError:
            raise InvalidInput(
                "Languages are not told apart here: the file that was learned is missing.",
                hint="Install the package anew, or name the source language.",
            ) from None
        told = json.loads(gzip.decompress(packed))
        return Identifier(told["grams"], told["names"], told["other_names"])

    def name(self, code: str) -> str | None:
        """The English name of a language's code."""
        return self._names.get(code) or self._other.get(code.partition("-")[0])

    def identify(self, text: str, *, among: Collection[str] | None = None) -> list[Guess]:
        """The likeliest languages, best first; none where there is no letter.

        With `among`, the others are left out: how sure one is stays the same.
        """
        grams = grams_of(text)
        if not grams:
            return []
        scores = [0.0] * len(self.languages)
        for gram, count in grams.items():
            if len(gram) == 1 and not gram.isascii() and gram < SIGNS:
                count *= LETTERS
            for place, gain in self._weights.get(gram, ()):
                scores[place] += count * gain
        best = max(scores)
        shares = [math.exp((score - best) / 10 / TEMPERATURE) for score in scores]
        letters = sum(map(str.isalpha, text[:READ]))
        # A sign of Chinese or Korean tells as much as several letters.
        letters += 4 * sum(character >= SIGNS for character in text[:READ])
        sure = 100 * (1 - math.exp(-letters / SURE_LETTERS)) if best else 0.0
        total = sum(shares)
        allowed = [
            place for place, code in enumerate(self.languages) if among is None or code in among
        ]
        order = sorted(allowed, key=lambda place: -shares[place])[:LISTED]
        return [
            Guess(round(sure * shares[place] / total, 1), self.languages[place])
            for place in order
            if place == order[0] or sure * shares[place] / total >= 1
        ]
