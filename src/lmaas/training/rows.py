"""Rows of an array as a batch that frameworks take as it lies, without another copy."""

from typing import Final

import numpy as np

ALIGNMENT: Final = 64
"""Bytes; where torch and TensorFlow put their own arrays."""


def take(source: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`source[rows]` along the first axis, at an aligned address. Rows outside are the nearest."""
    size = len(rows) * source[:1].nbytes
    raw = np.empty(size + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    batch = raw[first : first + size].view(source.dtype).reshape(len(rows), *source.shape[1:])
    # numpy checks rows in a buffer of its own, unless it is told what becomes of those outside.
    return np.take(source, rows, axis=0, out=batch, mode="clip")


def aligned(array: np.ndarray) -> bool:
    """Whether a framework takes the array as it lies."""
    return array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous
