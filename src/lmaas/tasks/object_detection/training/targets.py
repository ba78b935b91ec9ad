"""What a detector learns from boxes: heat maps of centres, and the box at each centre.

A centre's heat falls off with the box's own sides, and the box is learned in all cells about its
centre, which together weigh one (Liu et al., 2020): ten times as many as centres alone, so it is
learned in a part of the time.
"""

from typing import Any, Final

import numpy as np

from lmaas.tasks import Tensors
from lmaas.tasks.object_detection.options import SIDES, STRIDE

SPREAD: Final = 0.54 / 6
"""A side times this is the deviation of its heat."""
LEAST: Final = 0.4
"""The least deviation, in cells."""
BOX_SPREAD: Final = 1 / 8
BOX_CELLS: Final = 0.2
"""The same for the weights of the cells that learn the box, and the least weight that counts."""


def cells_of(
    boxes: np.ndarray, classes: np.ndarray, height: int, width: int, kinds: int
) -> Tensors:
    """`heat` (h, w, kinds), `boxes` (h, w, 4) and `mask` (h, w) of an image's boxes (n, 4), in
    pixels of an input of `height` x `width`.

    `mask` holds weights. Where two boxes claim a cell, the smaller one is learned.
    """
    rows, columns = height // STRIDE, width // STRIDE
    heat = np.zeros((rows, columns, kinds), np.float32)
    sides = np.zeros((rows, columns, SIDES), np.float32)
    weights, owner = np.zeros((rows, columns)), np.full((rows, columns), -1)
    scaled = boxes / STRIDE
    size = np.maximum(scaled[:, 2:] - scaled[:, :2], 1e-3)
    middle = (scaled[:, :2] + scaled[:, 2:]) / 2
    cell = np.clip(np.floor(middle).astype(np.int64), 0, [columns - 1, rows - 1])
    y, x = np.arange(rows)[:, None], np.arange(columns)[None]
    for place in np.argsort(-size.prod(axis=1), kind="stable").tolist():
        (column, row), kind = cell[place], int(classes[place])
        away = ((x - column) ** 2, (y - row) ** 2)

        def fall(spread: float, place: int = place, away: Any = away) -> np.ndarray:
            wide, high = np.maximum(size[place] * spread, LEAST)
            return np.asarray(np.exp(-away[0] / (2 * wide**2) - away[1] / (2 * high**2)))

        one = heat[..., kind]
        np.maximum(one, fall(SPREAD), out=one, casting="same_kind")
        heat[row, column, kind] = 1
        weight = fall(BOX_SPREAD)
        own = weight >= BOX_CELLS
        weights[own], owner[own] = weight[own], place
        sides[own, :2] = np.log(size[place])
        sides[own, 2] = (middle[place, 0] - x + 0 * y)[own]
        sides[own, 3] = (middle[place, 1] - y + 0 * x)[own]
    for place in range(len(boxes)):
        own = owner == place
        weights[own] /= max(weights[own].sum(), 1e-9)
    return {"heat": heat, "boxes": sides, "mask": weights.astype(np.float32)}
