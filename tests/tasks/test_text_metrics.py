"""BLEU and chrF against sacrebleu, whose signatures the names carry."""

import random

import pytest
from sacrebleu.metrics import BLEU, CHRF

from lmaas.tasks import text_metrics

WORDS = [
    "the",
    "house,",
    "isn't",
    "3.5",
    "1,000",
    "well-known",
    "12-14",
    "(a)",
    "<skipped>",
    "&amp;",
    "&lt;b&gt;",
    "Größe",
    "東京",
    "ist",
    "…",
    "end.",
]


def some(seed: int, count: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    references, written = [], []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 14))
        references.append(" ".join(words))
        kept = [word for word in words if draw.random() > 0.2]
        written.append(" ".join(kept + draw.choices(WORDS, k=draw.randint(0, 2))))
    return written, references


@pytest.mark.parametrize("seed", range(8))
def test_as_sacrebleu_says(seed: int) -> None:
    written, references = some(seed, 1 + 7 * seed)
    got = text_metrics.measure(written, references)
    bleu, chrf = BLEU(), CHRF()
    assert got["bleu"] == pytest.approx(bleu.corpus_score(written, [references]).score, abs=1e-9)
    assert got["chrf"] == pytest.approx(chrf.corpus_score(written, [references]).score, abs=1e-9)
    same = sum(a == b for a, b in zip(written, references, strict=True))
    assert got["exact"] == same / len(written)


@pytest.mark.parametrize(
    ("written", "references"),
    [
        ([""], ["a"]),
        (["xyz"], ["abc def"]),
        (["a b"], ["a b"]),
        (["a b c d e"] * 2, ["a b c d e"] * 2),
    ],
)
def test_at_the_edges(written: list[str], references: list[str]) -> None:
    got = text_metrics.measure(written, references)
    assert got["bleu"] == pytest.approx(BLEU().corpus_score(written, [references]).score, abs=1e-9)
    assert got["chrf"] == pytest.approx(CHRF().corpus_score(written, [references]).score, abs=1e-9)


def test_the_signatures_are_sacrebleu_s() -> None:
    for metric, ours in (
        (BLEU(), text_metrics.BLEU_SIGNATURE),
        (CHRF(), text_metrics.CHRF_SIGNATURE),
    ):
        metric.corpus_score(["a b"], [["a b"]])
        assert str(metric.get_signature()).rpartition("|version:")[0] == ours


def test_nothing_is_no_number() -> None:
    assert text_metrics.measure([], []) == {}
