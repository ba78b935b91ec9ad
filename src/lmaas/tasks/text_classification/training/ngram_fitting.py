"""How a linear classifier over runs of characters is fitted: logistic regression on tf-idf.

Knows arrays of symbols, no texts and no files. The same rows give the same model.
"""

from typing import Any, Final

import numpy as np

from lmaas.frameworks.ngrams import MOST_ROWS, Ngrams, counts
from lmaas.tasks import Tensors
from lmaas.tasks.base import softmax
from lmaas.tasks.text import IDS, MASK

LONGEST: Final = 5
FEW_CLASSES: Final = 16
"""With more, the table has fewer rows."""
STRENGTHS: Final = (1.0, 10.0, 100.0)
"""How far weights may go: the inverse of the penalty on their squares, as scikit-learn's C."""
MOST_TEXTS: Final = 50_000
ROWS_AT_ONCE: Final = 512


def fit(
    learned: Tensors,
    labels: np.ndarray,
    held: Tensors,
    truth: np.ndarray,
    *,
    symbols: int,
    classes: int,
) -> tuple[Ngrams, float]:
    """The model of symbols and masks (N, T) that is best for the held-out ones, and its log loss
    on them.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    rows = MOST_ROWS if classes <= FEW_CLASSES else MOST_ROWS >> 2
    learned = {name: array[:MOST_TEXTS] for name, array in learned.items()}
    labels = labels[:MOST_TEXTS]
    features = vectors(learned, rows)
    seen = np.bincount(features.indices, minlength=rows)
    rarity = np.log((1 + len(labels)) / (1 + seen)).astype(np.float64)
    scaled = sparse.csr_matrix(features @ sparse.diags(rarity))
    apart = sparse.csr_matrix(vectors(held, rows) @ sparse.diags(rarity))
    known = np.unique(labels)
    best: tuple[float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
        with threadpool_limits(1):
            model.fit(scaled, labels)
        table, bias = _whole(model, known, classes)
        scores = softmax(apart @ table + bias)
        loss = float(-np.log(np.maximum(scores[np.arange(len(truth)), truth], 1e-7)).mean())
        if best is None or loss < best[0]:
            best = loss, (table * rarity[:, None], bias)
    assert best is not None
    table, bias = best[1]
    made = Ngrams(
        table=np.ascontiguousarray(table, np.float32),
        bias=np.ascontiguousarray(bias, np.float32),
        longest=LONGEST,
        symbols=symbols,
        length=learned[IDS].shape[1],
    )
    return made, best[0]


def vectors(texts: Tensors, rows: int) -> Any:
    """How often each run stands in each text, by the root of all, as a sparse (N, rows)."""
    from scipy import sparse

    parts = []
    for start in range(0, len(texts[IDS]), ROWS_AT_ONCE):
        ids, mask = (texts[name][start : start + ROWS_AT_ONCE] for name in (IDS, MASK))
        found = [
            (places[on > 0], np.nonzero(on)[0]) for places, on in counts(ids, mask, LONGEST, rows)
        ]
        columns, lines = (np.concatenate([each[at] for each in found]) for at in (0, 1))
        total = np.bincount(lines, minlength=len(ids))
        values = 1 / np.sqrt(np.maximum(total, 1))[lines]
        parts.append(sparse.csr_matrix((values, (lines, columns)), (len(ids), rows)))
    joined = sparse.vstack(parts, format="csr")
    joined.sum_duplicates()
    return joined


def _whole(model: Any, known: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (rows, classes) and bias; classes that were not there are left at a low score."""
    weights, bias = model.coef_.T, model.intercept_
    if len(known) == 2 and weights.shape[1] == 1:
        weights = np.concatenate([-weights, weights], axis=1) / 2
        bias = np.concatenate([-bias, bias]) / 2
    table = np.zeros((len(weights), classes))
    level = np.full(classes, bias.min() - 5)
    table[:, known], level[known] = weights, bias
    return table, level
