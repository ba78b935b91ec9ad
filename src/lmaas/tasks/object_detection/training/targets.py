"""What a detector learns from boxes: heat maps of centres, and the box at each centre.

A centre's heat falls off with the box's own sides (Liu et al., 2020): it reaches far along a long
box, and not across it.
"""

from typing import Final

import numpy as np

from lmaas.tasks import Tensors
from lmaas.tasks.object_detection.options import SIDES, STRIDE

SPREAD: Final = 0.54 / 6
"""A side times this is the deviation of its heat."""
LEAST: Final = 0.4
"""The least deviation, in cells."""


def cells_of(
    boxes: np.ndarray, classes: np.ndarray, height: int, width: int, kinds: int
) -> Tensors:
    """`heat` (h, w, kinds), `boxes` (h, w, 4) and `mask` (h, w) of an image's boxes (n, 4), in
    pixels of an input of `height` x `width`.

    Where two centres share a cell, the smaller box is learned.
    """
    rows, columns = height // STRIDE, width // STRIDE
    heat = np.zeros((rows, columns, kinds), np.float32)
    sides = np.zeros((rows, columns, SIDES), np.float32)
    mask = np.zeros((rows, columns), np.float32)
    scaled = boxes / STRIDE
    size = np.maximum(scaled[:, 2:] - scaled[:, :2], 1e-3)
    middle = (scaled[:, :2] + scaled[:, 2:]) / 2
    cell = np.clip(np.floor(middle).astype(np.int64), 0, [columns - 1, rows - 1])
    deviation = np.maximum(size * SPREAD, LEAST)
    x, y = np.arange(columns), np.arange(rows)
    for place in np.argsort(-size.prod(axis=1), kind="stable").tolist():
        (column, row), (wide, high), kind = cell[place], deviation[place], int(classes[place])
        across = np.exp(-(((x - column) / wide) ** 2) / 2)
        down = np.exp(-(((y - row) / high) ** 2) / 2)
        map_ = heat[..., kind]
        np.maximum(map_, down[:, None] * across[None], out=map_, casting="same_kind")
        heat[row, column, kind] = 1
        sides[row, column, :2] = np.log(size[place])
        sides[row, column, 2:] = middle[place] - cell[place]
        mask[row, column] = 1
    return {"heat": heat, "boxes": sides, "mask": mask}
