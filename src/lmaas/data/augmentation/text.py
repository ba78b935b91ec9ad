"""Texts: words swapped, left out or replaced by synonyms, characters disturbed.

Source of swap, deletion and synonyms: EDA, Wei and Zou 2019. White space between words is one
space afterwards where words moved.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from lmaas.data.augmentation import chosen, options_of
from lmaas.recipe import Transform

Share = Annotated[float, Meta(ge=0, le=1)]


class Step(Protocol):
    """Changes one text."""

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """The changed text."""
        ...


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all transforms' options."""


class Swap(Options, frozen=True, kw_only=True):
    """This share of the words changes places with another, at least one pair."""

    share: Share = 0.1

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """Swap pairs of words."""
        words = text.split()
        if len(words) < 2:
            return text
        for _ in range(max(1, round(self.share * len(words) / 2))):
            i, j = random.choice(len(words), 2, replace=False)
            words[i], words[j] = words[j], words[i]
        return " ".join(words)


class Delete(Options, frozen=True, kw_only=True):
    """Each word is left out with this chance; one always stays."""

    share: Share = 0.1

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """Leave words out."""
        words = text.split()
        if len(words) < 2:
            return text
        kept = [
            w
            for w, out in zip(words, random.random(len(words)) < self.share, strict=True)
            if not out
        ]
        return " ".join(kept or [words[random.integers(len(words))]])


class Synonym(Options, frozen=True, kw_only=True):
    """Each word that `synonyms` lists (in lower case) is replaced with the chance `share`."""

    synonyms: dict[str, tuple[str, ...]]
    share: Share = 0.3

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """Replace words; a capital at the beginning stays one."""
        words = text.split()
        for i, word in enumerate(words):
            others = self.synonyms.get(word.lower(), ())
            if others and random.random() < self.share:
                new = others[random.integers(len(others))]
                words[i] = new[:1].upper() + new[1:] if word[:1].isupper() else new
        return " ".join(words)


class CharacterNoise(Options, frozen=True, kw_only=True):
    """Each character is, with the chance `share`, dropped, doubled or swapped with the next."""

    share: Share = 0.03

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """Disturb characters."""
        hit = random.random(len(text)) < self.share
        kinds = random.integers(0, 3, len(text))
        out: list[str] = []
        skip = False
        for i, character in enumerate(text):
            if skip:
                skip = False
            elif not hit[i]:
                out.append(character)
            elif kinds[i] == 1:
                out += (character, character)
            elif kinds[i] == 2 and i + 1 < len(text):
                out += (text[i + 1], character)
                skip = True
        return "".join(out) or text


STEPS: dict[str, type[Options]] = {
    "swap": Swap,
    "delete": Delete,
    "synonym": Synonym,
    "character-noise": CharacterNoise,
}
"""Every text augmentation by its name in a recipe."""


class TextAugmenter:
    """What a recipe asks for, on texts. Raises InvalidInput for what is unknown."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._steps = [(t.p, options_of(t, STEPS)) for t in transforms]

    def __call__(self, text: str, random: np.random.Generator) -> str:
        """The text, changed; never made empty."""
        for step in chosen(self._steps, random):
            text = step(text, random)
        return text
