"""Which whole numbers a model takes: its vocabulary, its positions, its classes.

What the source refuses must be refused where it is served, and a compiled model may not: a lookup
beyond a table's end reads nothing or anything. So the bounds are found by asking the source.
"""

import time
from typing import Final

import numpy as np

from lmaas.frameworks.draws import is_mask
from lmaas.frameworks.source import Source
from lmaas.tasks import Row

SLOWER: Final = 8.0
"""A number that takes so many times as long as the sample is no longer raised: it is a size."""
SLOW_S: Final = 0.1
STEP: Final = 4


def ranges(source: Source, arrays: Row) -> dict[str, tuple[int, int]]:
    """The least and the greatest whole number that each input takes, as far as was asked."""
    return {
        name: (_end(source, arrays, name, -1), _end(source, arrays, name, 1))
        for name, array in arrays.items()
        if array.dtype.kind in "iu" and array.size and not is_mask(array)
    }


def _end(source: Source, arrays: Row, name: str, way: int) -> int:
    """The last number in one direction at which the source still answers."""
    array = arrays[name]
    info = np.iinfo(array.dtype)
    limit = int(info.max if way > 0 else info.min)
    good = int(array.max() if way > 0 else array.min())
    if way < 0 and good > 0 and _takes(source, arrays, name, 0):
        good = 0
    bad: int | None = None
    step = 1
    while good != limit:
        value = good + way * step
        value = min(limit, value) if way > 0 else max(limit, value)
        if not _takes(source, arrays, name, value):
            bad = value
            break
        good = value
        step = max(STEP * step, abs(good))
    while bad is not None and abs(good - bad) > 1:
        middle = (good + bad) // 2
        if _takes(source, arrays, name, middle):
            good = middle
        else:
            bad = middle
    return good


def _takes(source: Source, arrays: Row, name: str, value: int) -> bool:
    if source.tired:
        return False
    # One number alone: in an input whose numbers depend on each other, as offsets do, all alike
    # would be refused for another reason.
    array = arrays[name].copy()
    place = array.argmax() if value > array.max() else array.argmin()
    array.reshape(-1)[place] = value
    start = time.perf_counter()
    got = source.ask({**arrays, name: array})
    took_s = time.perf_counter() - start
    return got is not None and took_s <= SLOW_S + SLOWER * source.took_s
