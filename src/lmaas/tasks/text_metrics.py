"""BLEU and chrF of written texts against references, over a whole set, as sacrebleu gives them.

BLEU (Papineni et al., 2002): four orders of words as NIST's mteval-v13a splits them, one reference,
exponential smoothing. chrF2 (Popović, 2015): six orders of characters without whitespace, orders
that a text is too short for left out. Both are within 0 and 100. Knows no models.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

BLEU_SIGNATURE: Final = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
CHRF_SIGNATURE: Final = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"
WORD_ORDERS: Final = 4
CHARACTER_ORDERS: Final = 6
RECALL_WEIGHT: Final = 4.0
"""The square of chrF's beta: recall counts twice as much."""

_INSIDE = "'-,."
"""ASCII punctuation that does not always stand alone."""
_MARKS = "".join(c for c in map(chr, range(32, 127)) if not (c.isalnum() or c in _INSIDE))
_ALONE = re.compile(f"([{re.escape(_MARKS)}])")
_STOP_AFTER = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE = re.compile(r"([.,])([^0-9])")
_DASH = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def words_of(text: str) -> list[str]:
    """The words of a text, as mteval-v13a splits them."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _ALONE.sub(r" \1 ", f" {text} ")
    text = _STOP_AFTER.sub(r"\1 \2 ", text)
    text = _STOP_BEFORE.sub(r" \1 \2", text)
    return _DASH.sub(r"\1 \2 ", text).split()


class Counts:
    """Adds up what both metrics are made of, text by text."""

    def __init__(self) -> None:
        self._words = [[0, 0] for _ in range(WORD_ORDERS)]
        self._lengths = [0, 0]
        self._characters = [[0, 0, 0] for _ in range(CHARACTER_ORDERS)]
        self._same = self._texts = 0

    def add(self, written: str, reference: str) -> None:
        """Count one text against its reference."""
        self._texts += 1
        self._same += written == reference
        own, right = words_of(written), words_of(reference)
        self._lengths[0] += len(own)
        self._lengths[1] += len(right)
        for order, counts in enumerate(self._words, 1):
            had, wanted = _grams(own, order), _grams(right, order)
            counts[0] += sum((had & wanted).values())
            counts[1] += sum(had.values())
        own_text, right_text = "".join(written.split()), "".join(reference.split())
        for order, characters in enumerate(self._characters, 1):
            had, wanted = _grams(own_text, order), _grams(right_text, order)
            characters[0] += sum(had.values()) if wanted else 0
            characters[1] += sum(wanted.values())
            characters[2] += sum((had & wanted).values())

    def result(self) -> dict[str, float]:
        """`bleu`, `chrf` and `exact`, the share of texts that are their reference."""
        if not self._texts:
            return {}
        return {"bleu": self._bleu(), "chrf": self._chrf(), "exact": self._same / self._texts}

    def _bleu(self) -> float:
        if not any(right for right, _ in self._words):
            return 0.0
        precisions, smoothing = [], 1.0
        for right, all_of_them in self._words:
            if not all_of_them:
                return 0.0
            if not right:
                smoothing *= 2
            precisions.append(right / all_of_them if right else 1 / (smoothing * all_of_them))
        own, wanted = self._lengths
        brevity = min(0.0, 1 - wanted / own)
        return 100 * math.exp(brevity + sum(map(math.log, precisions)) / WORD_ORDERS)

    def _chrf(self) -> float:
        counted = [row for row in self._characters if row[0] and row[1]]
        if not counted:
            return 0.0
        precision = sum(right / own for own, _, right in counted) / len(counted)
        recall = sum(right / wanted for _, wanted, right in counted) / len(counted)
        if not precision + recall:
            return 0.0
        product = (1 + RECALL_WEIGHT) * precision * recall
        return 100 * product / (RECALL_WEIGHT * precision + recall)


def measure(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`bleu`, `chrf` and `exact` of texts against one reference each."""
    counts = Counts()
    for text, reference in zip(written, references, strict=True):
        counts.add(text, reference)
    return counts.result()


def _grams(items: Sequence[str], order: int) -> Counter[Sequence[str]]:
    if isinstance(items, str):
        return Counter(items[at : at + order] for at in range(len(items) - order + 1))
    return Counter(tuple(items[at : at + order]) for at in range(len(items) - order + 1))
