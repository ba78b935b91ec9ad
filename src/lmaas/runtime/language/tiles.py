"""Images that are read in tiles: a small copy, and the image itself cut into squares.

The grid is the one that keeps most of the image. What pads the image to it is left out again, and
each row of what is left ends with a token of its own. Source: Liu et al., LLaVA-NeXT, 2024, as
`transformers` computes it.
"""

import math

import numpy as np
from PIL import Image

from lmaas.types import VisionSpec

Size = tuple[int, int]
"""Width and height."""


def grid_of(size: Size, spec: VisionSpec) -> Size:
    """The width and height in pixels, of `spec.grids`, to which an image of this size is padded."""
    width, height = size
    best, most, least = (spec.width, spec.height), -1, math.inf
    for wide, high in spec.grids:
        scale = min(wide / width, high / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = wide * high - kept
        if kept > most or (kept == most and wasted < least):
            best, most, least = (wide, high), kept, wasted
    return best


def cells_left(size: Size, spec: VisionSpec) -> tuple[slice, slice]:
    """Rows and columns of the grid's cells (the tower's, of all tiles) that show the image."""
    width, height = size
    wide, high = grid_of(size, spec)
    columns = wide // spec.width * spec.side
    rows = high // spec.height * spec.side
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(cut, rows - cut), slice(0, columns)
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(0, rows), slice(cut, columns - cut)


def count(size: Size, spec: VisionSpec) -> int:
    """How many tokens an image of this size is in tiles."""
    rows, columns = cells_left(size, spec)
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    return int(spec.tokens + high * (wide + 1))


def most_tokens(spec: VisionSpec) -> int:
    """How many tokens any image has at most."""
    tiled = [
        high // spec.height * spec.side * (wide // spec.width * spec.side + 1)
        for wide, high in spec.grids
    ]
    return spec.tokens + max(tiled, default=0)


def cut(image: Image.Image, spec: VisionSpec) -> list[Image.Image]:
    """The small copy, then the tiles row by row; each of `spec.width` x `spec.height` pixels."""
    resample = Image.Resampling(spec.resample)
    wide, high = grid_of(image.size, spec)
    scale_x, scale_y = wide / image.width, high / image.height
    if scale_x < scale_y:
        inner = wide, min(math.ceil(image.height * scale_x), high)
    else:
        inner = min(math.ceil(image.width * scale_y), wide), high
    whole = Image.new("RGB", (wide, high))
    place = ((wide - inner[0]) // 2, (high - inner[1]) // 2)
    whole.paste(image.resize(inner, resample), place)
    tiles = [
        whole.crop((left, top, left + spec.width, top + spec.height))
        for top in range(0, high, spec.height)
        for left in range(0, wide, spec.width)
    ]
    return [image.resize((spec.width, spec.height), resample), *tiles]


def packed(told: np.ndarray, size: Size, newline: np.ndarray, spec: VisionSpec) -> np.ndarray:
    """Rows (T, numbers) of an image from the tower's (1 + tiles, cells, numbers).

    A small copy alone ends with one `newline` (numbers), the row that ends rows.
    """
    small, tiles = told[0], told[1:]
    if not len(tiles):
        return np.concatenate([small, newline[None]])
    wide, high = grid_of(size, spec)
    across, down = wide // spec.width, high // spec.height
    cells = tiles.reshape(down, across, spec.side, spec.side, -1).transpose(0, 2, 1, 3, 4)
    cells = cells.reshape(down * spec.side, across * spec.side, -1)[cells_left(size, spec)]
    ends = np.broadcast_to(newline, (len(cells), 1, len(newline)))
    lines = np.concatenate([cells, ends], 1).reshape(-1, cells.shape[-1])
    return np.concatenate([small, lines])
