"""Mean average precision as COCO measures it (Lin et al., 2014), in numpy.

For each class and each overlap from 0.5 to 0.95, predictions claim true boxes, the surest first;
precision is read at 101 values of recall. The same numbers as pycocotools' `bbox` evaluation over
boxes of all sizes, with at most 100 predictions of a class in an image.
"""

from typing import Final

import numpy as np

from lmaas.tasks.object_detection.boxes import areas, overlaps

OVERLAPS: Final = np.linspace(0.5, 0.95, 10)
RECALLS: Final = np.linspace(0, 1, 101)
MOST: Final = 100
SMALLEST: Final = 1e-10


class AveragePrecision:
    """Adds up images; `classes` is how many there are."""

    def __init__(self, classes: int) -> None:
        self._scores: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._hits: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._ignored: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._true = np.zeros(classes, np.int64)

    def add(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        true_boxes: np.ndarray,
        true_classes: np.ndarray,
        crowd: np.ndarray | None = None,
    ) -> None:
        """One image: predictions and true boxes, (n, 4) as corners.

        True boxes in `crowd` stand for many objects: what lies in them counts neither for nor
        against.
        """
        crowds = np.zeros(len(true_boxes), bool) if crowd is None else crowd.astype(bool)
        for number in np.union1d(classes, true_classes).astype(int).tolist():
            own = np.flatnonzero(classes == number)
            own = own[np.argsort(-scores[own], kind="stable")][:MOST]
            there = np.flatnonzero(true_classes == number)
            there = there[np.argsort(crowds[there], kind="stable")]
            hits, ignored = _claims(boxes[own], true_boxes[there], crowds[there])
            self._scores[number].append(scores[own])
            self._hits[number].append(hits)
            self._ignored[number].append(ignored)
            self._true[number] += int((~crowds[there]).sum())

    def result(self) -> dict[str, float]:
        """`map` and `map50`, means over the classes that are there; none without a true box."""
        tables = [
            _table(
                np.concatenate(self._scores[number]),
                np.concatenate(self._hits[number], axis=1),
                np.concatenate(self._ignored[number], axis=1),
                int(count),
            )
            for number, count in enumerate(self._true.tolist())
            if count
        ]
        if not tables:
            return {}
        means = np.mean(tables, axis=0)
        return {"map": float(means.mean()), "map50": float(means[0])}


def _claims(
    boxes: np.ndarray, true: np.ndarray, crowds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each overlap (10, n) whether a prediction finds a true box, and whether it is left out.

    `true` has those of a crowd last, which several predictions may find.
    """
    hits = np.zeros((len(OVERLAPS), len(boxes)), bool)
    ignored = np.zeros_like(hits)
    if not len(true):
        return hits, ignored
    shared = overlaps(boxes, true)
    if crowds.any():
        own = np.maximum(areas(boxes), np.finfo(np.float64).tiny)[:, None]
        whole = areas(boxes)[:, None] + areas(true)[None, :]
        shared[:, crowds] = (shared * whole / (1 + shared) / own)[:, crowds]
    for level, least in enumerate(OVERLAPS):
        taken = np.zeros(len(true), bool)
        for place in np.flatnonzero(shared.max(axis=1) >= least - SMALLEST).tolist():
            open_to = np.where(taken & ~crowds, -1.0, shared[place])
            found = _best(open_to, crowds, min(least, 1 - SMALLEST))
            if found is not None:
                taken[found] = True
                hits[level, place] = not crowds[found]
                ignored[level, place] = crowds[found]
    return hits, ignored


def _best(shared: np.ndarray, crowds: np.ndarray, least: float) -> int | None:
    """The true box that overlaps most, the last of several; one of a crowd where no other does."""
    for among in (~crowds, crowds):
        places = np.flatnonzero(among & (shared >= least))
        if len(places):
            values = shared[places]
            return int(places[len(places) - 1 - np.argmax(values[::-1])])
    return None


def _table(scores: np.ndarray, hits: np.ndarray, ignored: np.ndarray, count: int) -> np.ndarray:
    """The average precision of one class at each overlap."""
    order = np.argsort(-scores, kind="stable")
    found = np.zeros(len(OVERLAPS))
    for level in range(len(OVERLAPS)):
        counted = order[~ignored[level, order]]
        right = np.cumsum(hits[level, counted]).astype(np.float64)
        if not len(right):
            continue
        recall = right / count
        precision = right / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, RECALLS, "left")
        reached = np.append(precision, 0.0)[places]
        found[level] = reached.mean()
    return found
