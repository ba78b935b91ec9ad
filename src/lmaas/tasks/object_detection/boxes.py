"""Boxes as arrays (…, 4) of xmin, ymin, xmax, ymax: how they overlap, and which of them stay."""

from typing import Final

import numpy as np

MOST: Final = 10_000
"""So many candidates of an image are looked at, the best ones: what overlaps is quadratic."""


def corners(boxes: np.ndarray, form: str) -> np.ndarray:
    """Boxes as xmin, ymin, xmax, ymax; `form` is "xyxy", "cxcywh" or "cycxhw"."""
    if form == "xyxy":
        return boxes
    if form == "cycxhw":
        boxes = boxes[..., [1, 0, 3, 2]]
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """The area of each box; 0 for one that is inside out."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, (A, B), of each of `ones` (A, 4) with each of `others` (B, 4)."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    whole = areas(ones)[:, None] + areas(others)[None, :] - shared
    return np.asarray(shared / np.maximum(whole, np.finfo(np.float64).tiny))


def suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, limit: float, most: int
) -> np.ndarray:
    """Which boxes (n, 4) stay, the best first, at most `most`: greedy and by class.

    A box goes when one of its class with a higher score overlaps it by more than `limit`. Exact for
    the `MOST` best candidates; worse ones are not looked at.
    """
    left = np.argsort(-scores, kind="stable")[:MOST]
    # Boxes of two classes, each shifted by its class's own distance, never overlap.
    low, high = boxes.min(initial=0), boxes.max(initial=0)
    shifted = boxes.astype(np.float64) + (classes * (high - low + 1))[:, None]
    size = areas(shifted)
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        rest = shifted[left]
        sides = np.minimum(rest[:, 2:], shifted[best, 2:]) - np.maximum(
            rest[:, :2], shifted[best, :2]
        )
        shared = np.prod(np.maximum(sides, 0), axis=1)
        left = left[shared <= limit * (size[left] + size[best] - shared)]
    return np.array(kept, np.int64)
