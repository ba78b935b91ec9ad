"""Lines of text from a map of how likely each pixel is inside one (Liao et al., 2020).

The network learns places that are smaller than the lines, so that neighbours do not touch; what is
found is grown again by its area times `grow` by its circumference. In pixels of the model's input.
"""

from typing import Final, NamedTuple

import numpy as np

from lmaas.tasks.object_detection.rectangles import Runs, places, smallest
from lmaas.types import DetectionSpec

LEAST_SIDE: Final = 3.0
"""Pixels of the shorter side before it is grown; less is no line."""


class Quadrilaterals(NamedTuple):
    """Corners (n, 4, 2), clockwise from the top left, and scores (n,), the best first."""

    corners: np.ndarray
    scores: np.ndarray


def find(likely: np.ndarray, spec: DetectionSpec, threshold: float) -> Quadrilaterals:
    """The lines of one image's map (H, W); their score is the map's mean inside them."""
    runs = places(likely > spec.binary)
    _, begins, counts = np.unique(runs.place, return_index=True, return_counts=True)
    # The largest ones, as many as are wanted at most.
    chosen = np.sort(np.argsort(-_areas(runs, begins), kind="stable")[: spec.most])
    corners, scores = [], []
    sums = np.zeros((likely.shape[0], likely.shape[1] + 1))
    np.cumsum(likely, axis=1, dtype=np.float64, out=sums[:, 1:])
    for place in chosen.tolist():
        own = slice(int(begins[place]), int(begins[place] + counts[place]))
        around = smallest(_ends(runs.row[own], runs.start[own], runs.end[own]))
        if around.sides.min() < LEAST_SIDE:
            continue
        score = _mean(sums, around.corners())
        if score < threshold:
            continue
        grown = around.sides.prod() * spec.grow / (2 * around.sides.sum())
        # Of pixels as points: half a pixel to their edges.
        corners.append(around.corners(grown) + 0.5)
        scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")
    return Quadrilaterals(
        np.array(corners, np.float64).reshape(-1, 4, 2)[order], np.array(scores, np.float64)[order]
    )


def _ends(row: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The first and the last pixel of each row of a place, (2 rows, 2) as x, y: none of the others
    can be a corner of its hull.
    """
    rows, begins = np.unique(row, return_index=True)
    left, right = np.minimum.reduceat(start, begins), np.maximum.reduceat(end, begins) - 1
    points = np.concatenate([np.stack([left, rows], axis=1), np.stack([right, rows], axis=1)])
    return points.astype(np.float64)


def _areas(runs: Runs, begins: np.ndarray) -> np.ndarray:
    """Pixels of each place."""
    if not len(begins):
        return np.zeros(0, np.int64)
    return np.asarray(np.add.reduceat(runs.end - runs.start, begins))


def _mean(sums: np.ndarray, corners: np.ndarray) -> float:
    """The mean of the pixels in a quadrilateral (4, 2), by the sums of rows up to each column."""
    height, width = sums.shape[0], sums.shape[1] - 1
    first = int(np.clip(np.ceil(corners[:, 1].min()), 0, height - 1))
    last = int(np.clip(np.floor(corners[:, 1].max()), first, height - 1))
    rows = np.arange(first, last + 1)
    low, high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 == y2:
            met = rows == y1
            left, right = np.full(len(rows), min(x1, x2)), np.full(len(rows), max(x1, x2))
        else:
            met = (rows >= min(y1, y2)) & (rows <= max(y1, y2))
            left = right = x1 + (rows - y1) * ((x2 - x1) / (y2 - y1))
        low = np.where(met, np.minimum(low, left), low)
        high = np.where(met, np.maximum(high, right), high)
    there = low <= high
    if not there.any():
        return 0.0
    rows = rows[there]
    start = np.clip(np.rint(low[there]), 0, width - 1).astype(np.int64)
    end = np.clip(np.rint(high[there]), start, width - 1).astype(np.int64) + 1
    return float((sums[rows, end] - sums[rows, start]).sum() / (end - start).sum())
