"""Word and letter error rates: what was heard against what was said.

The Levenshtein distance by the number of words (or letters) that were said, summed over all texts
first. Texts are compared as they are; who normalises them is who says so.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from lmaas.tasks.automatic_speech_recognition import lattice
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet
from lmaas.tasks.edit_distance import distance


class Tally:
    """Errors and lengths over many texts."""

    def __init__(self) -> None:
        self._word_errors = self._words = self._letter_errors = self._letters = 0

    def add(self, heard: str, said: str) -> None:
        """Count one text."""
        self._word_errors += distance(said.split(), heard.split())
        self._words += len(said.split())
        self._letter_errors += distance(said, heard)
        self._letters += len(said)

    def result(self) -> dict[str, float]:
        """The rates; none where nothing was said."""
        if not self._words:
            return {}
        return {
            "wer": self._word_errors / self._words,
            "cer": self._letter_errors / self._letters,
        }


def measure(heard: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """`wer` and `cer` of texts, in lower case and without punctuation."""
    tally = Tally()
    for one, other in zip(heard, said, strict=True):
        tally.add(plain(one), plain(other))
    return tally.result()


def plain(text: str) -> str:
    """Words in lower case, with their apostrophes and without other punctuation, a blank between
    two."""
    kept = (c if c.isalnum() or c in "'’" or unicodedata.category(c) == "Mn" else " " for c in text)
    return " ".join("".join(kept).lower().replace("’", "'").split())


def heard(logits: np.ndarray, alphabet: Alphabet) -> str:
    """The greedy text of one sound's outputs (T, V)."""
    found = lattice.letters(lattice.log_probabilities(logits), alphabet)
    return lattice.join(lattice.words(found, alphabet), alphabet)


def spelled(tokens: Sequence[int], alphabet: Alphabet) -> str:
    """The text that token numbers stand for."""
    return "".join(
        " " if token == alphabet.delimiter else alphabet.tokens[token] for token in tokens
    )
