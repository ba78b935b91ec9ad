"""Outputs of a detector as sets of boxes: what parity compares.

Heads with a cell or an anchor for each box give them in one order. Others pick the best and sort
them, and where two are about as good, rounding decides: there the boxes of two runs are paired, the
nearest first, and what is compared is each with its partner.
"""

from typing import Final

import numpy as np

from lmaas.tasks.base import Tensors
from lmaas.tasks.object_detection.heads import ORDERLESS, OWN_UNITS, split
from lmaas.types import Signature

FAR: Final = 1e9
"""The distance of numbers to what is none."""
STRICTER: Final = 5
"""Errors of places count so many times: what is little of a number is pixels of an image."""


def view(outputs: Tensors, signature: Signature) -> Tensors:
    """Boxes, scores and class numbers of raw outputs, and the outputs that no box is made of."""
    assert signature.detection is not None
    parts = split(outputs, signature)
    told = {"scores": parts.scores}
    if signature.detection.head != "map":
        told["boxes"] = parts.boxes
    if parts.classes is not None:
        told["classes"] = parts.classes
    spare = {n: array for n, array in outputs.items() if n not in signature.detection.outputs}
    return {**told, **spare}


def aligned(want: Tensors, have: Tensors, signature: Signature) -> Tensors:
    """`have` with its boxes in the order of their partners in `want`, and its errors of places as
    they are to be counted; both are views.
    """
    assert signature.detection is not None
    head = signature.detection.head
    names: list[str] = [name for name in ("boxes", "scores", "classes") if name in want]
    if any(want[name].shape != have[name].shape for name in names):
        return have
    ordered: Tensors = {name: have[name].copy() for name in names}
    if head in ORDERLESS:
        for row in range(len(want["boxes"])):
            partners = pairs(_features(want, names, row), _features(have, names, row))
            for name in names:
                ordered[name][row] = have[name][row][partners]
    if head not in OWN_UNITS:
        ordered["boxes"] = want["boxes"] + STRICTER * (ordered["boxes"] - want["boxes"])
    return {**have, **ordered}


def pairs(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `ones` (n, F) its partner among `others` (n, F): the nearest pair first."""
    count = len(ones)
    apart = np.zeros((count, count))
    for place, one in enumerate(ones):
        apart[place] = np.abs(others - one).sum(axis=1)
    apart[~np.isfinite(apart)] = FAR
    partners = np.full(count, -1, np.int64)
    taken = np.zeros(count, bool)
    left = count
    for place in np.argsort(apart, axis=None, kind="stable").tolist():
        one, other = divmod(place, count)
        if partners[one] < 0 and not taken[other]:
            partners[one], taken[other] = other, True
            left -= 1
            if not left:
                break
    return partners


def _features(told: Tensors, names: list[str], row: int) -> np.ndarray:
    """What tells boxes of one image apart, (n, F)."""
    columns = [told[name][row].reshape(len(told["boxes"][row]), -1) for name in names]
    return np.concatenate(columns, axis=1).astype(np.float64)
