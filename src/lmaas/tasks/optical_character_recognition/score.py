"""How texts that were read differ from those that are there.

`exact` is the share of the images whose text is right, letter for letter; `cer` the Levenshtein
distance by the number of characters that are there, summed over all images first.
"""

import unicodedata
from collections.abc import Sequence

from lmaas.tasks.edit_distance import distance


class Tally:
    """Errors and lengths over many images."""

    def __init__(self) -> None:
        self._images = self._exact = self._errors = self._characters = 0

    def add(self, found: str, there: str) -> None:
        """Count one image."""
        self._images += 1
        self._exact += found == there
        self._errors += distance(there, found)
        self._characters += len(there)

    def result(self) -> dict[str, float]:
        """The rates; none where there was nothing to read."""
        if not self._characters:
            return {}
        return {
            "exact": self._exact / self._images,
            "cer": self._errors / self._characters,
        }


def measure(found: Sequence[str], there: Sequence[str]) -> dict[str, float]:
    """`exact` and `cer` of texts, in Unicode's form NFC and without blanks around them."""
    tally = Tally()
    for one, other in zip(found, there, strict=True):
        tally.add(plain(one), plain(other))
    return tally.result()


def plain(text: str) -> str:
    """The text as it is compared."""
    return unicodedata.normalize("NFC", text).strip()
