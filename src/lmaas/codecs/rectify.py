"""Quadrilaterals of an image as upright rectangles: perspective undone."""

from typing import Final

import numpy as np
from PIL import Image

MOST_SIDE: Final = 4096
"""Longest side of what is cut out, in pixels; a longer one is made smaller."""


def sides(corners: np.ndarray) -> tuple[int, int]:
    """Width and height of a quadrilateral (4, 2), clockwise from its top left: the longer one of
    each two opposite sides, from 1 to `MOST_SIDE` pixels."""
    away = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    width, height = max(away[0], away[2]), max(away[1], away[3])
    width, height = np.clip(np.round([width, height]), 1, MOST_SIDE).astype(int).tolist()
    return width, height


def rectified(image: Image.Image, corners: np.ndarray) -> Image.Image:
    """What a quadrilateral (4, 2), clockwise from its top left, holds, as a rectangle of its sides.

    Where it reaches over the image's edge, the edge goes on. One of no area gives pixels of one
    place.
    """
    width, height = sides(corners)
    low = np.floor(corners.min(axis=0)).astype(int) - 1
    high = np.ceil(corners.max(axis=0)).astype(int) + 2
    edge = np.array([image.width, image.height])
    low, high = np.clip(low, 0, edge - 1), np.clip(high, 1, edge)
    high = np.maximum(high, low + 1)
    part = image.crop((*low.tolist(), *high.tolist()))
    inside = np.clip(corners - low, 0, np.array(part.size))
    # Corners are edges of pixels, and Pillow looks up the middle of each pixel that it makes.
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    way = _perspective(target, inside)
    if way is None:
        return part.resize((width, height), Image.Resampling.BILINEAR)
    return part.transform(
        (width, height), Image.Transform.PERSPECTIVE, way, Image.Resampling.BICUBIC
    )


def _perspective(source: np.ndarray, target: np.ndarray) -> tuple[float, ...] | None:
    """The eight numbers of the projection from `source` to `target` points (4, 2); None where there
    is none."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source.tolist(), target.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    try:
        found = np.linalg.solve(np.array(rows), np.array(values))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(found).all():
        return None
    return tuple(found.tolist())
