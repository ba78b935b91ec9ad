"""Which whole numbers a model takes: its vocabulary, its positions, its classes.

What the source refuses must be refused where it is served, and a compiled model may not: a lookup
beyond a table's end reads nothing or anything. So the bounds are found by asking the source.
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from lmaas.frameworks.draws import is_mask, over
from lmaas.frameworks.source import Source
from lmaas.tasks import Tensors

SLOWER: Final = 8.0
"""A number that takes so many times as long as the sample is no longer raised: it is a size."""
SLOW_S: Final = 0.1
STEP: Final = 4


def ranges(source: Source, arrays: Tensors) -> dict[str, tuple[int, int]]:
    """The least and the greatest whole number that each input takes, as far as was asked.

    One number is raised alone first: in an input whose numbers depend on each other, as offsets do,
    all alike would be refused for another reason. Where numbers from all over what was found are
    refused together, that one may have stood where a mask hides it: then all are raised alike.
    """
    names = [
        name
        for name, array in arrays.items()
        if array.dtype.kind in "iu" and array.size and not is_mask(array)
    ]
    found = _ranges(source, arrays, names, _one)
    if not names or _together(source, arrays, found):
        return found
    alike = _ranges(source, arrays, names, _all)
    return alike if _together(source, arrays, alike) else found


def _ranges(
    source: Source, arrays: Tensors, names: list[str], put: Callable[[np.ndarray, int], np.ndarray]
) -> dict[str, tuple[int, int]]:
    return {
        name: (_end(source, arrays, name, -1, put), _end(source, arrays, name, 1, put))
        for name in names
    }


def _together(source: Source, arrays: Tensors, found: dict[str, tuple[int, int]]) -> bool:
    given = over(arrays, found, np.random.default_rng(5))
    return given is None or source.ask(given) is not None


def _one(array: np.ndarray, value: int) -> np.ndarray:
    changed = array.copy()
    place = array.argmax() if value > array.max() else array.argmin()
    changed.reshape(-1)[place] = value
    return changed


def _all(array: np.ndarray, value: int) -> np.ndarray:
    return np.full_like(array, value)


def _end(
    source: Source,
    arrays: Tensors,
    name: str,
    way: int,
    put: Callable[[np.ndarray, int], np.ndarray],
) -> int:
    """The last number in one direction at which the source still answers."""
    array = arrays[name]
    info = np.iinfo(array.dtype)
    limit = int(info.max if way > 0 else info.min)
    good = int(array.max() if way > 0 else array.min())
    if way < 0 and good > 0 and _takes(source, arrays, name, 0, put):
        good = 0
    bad: int | None = None
    step = 1
    while good != limit:
        value = good + way * step
        value = min(limit, value) if way > 0 else max(limit, value)
        if not _takes(source, arrays, name, value, put):
            bad = value
            break
        good = value
        step = max(STEP * step, abs(good))
    while bad is not None and abs(good - bad) > 1:
        middle = (good + bad) // 2
        if _takes(source, arrays, name, middle, put):
            good = middle
        else:
            bad = middle
    return good


def _takes(
    source: Source,
    arrays: Tensors,
    name: str,
    value: int,
    put: Callable[[np.ndarray, int], np.ndarray],
) -> bool:
    if source.tired:
        return False
    start = time.perf_counter()
    got = source.ask({**arrays, name: put(arrays[name], value)})
    took_s = time.perf_counter() - start
    return got is not None and took_s <= SLOW_S + SLOWER * source.took_s
