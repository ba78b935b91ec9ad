"""Other values than the sample's: within its range, beyond it, mixed, masks and texts redrawn."""

from typing import Final

import numpy as np

from lmaas.tasks import Tensors

WORDS: Final = (b"", b"never seen before", "größer 雨".encode(), b"0", b"-1.5")
"""Texts that no sample is likely to have."""


def is_mask(array: np.ndarray) -> bool:
    """Whether it seems to say which elements count: booleans, or whole numbers that are 0 or 1."""
    if array.dtype.kind == "b":
        return True
    return array.dtype.kind in "iu" and array.ndim > 1 and bool(((array == 0) | (array == 1)).all())


def mixed(arrays: Tensors, rng: np.random.Generator) -> Tensors:
    """Each column's own values, in another order than the other columns'."""
    found = {}
    for name, array in arrays.items():
        if array.ndim < 2 or is_mask(array) or len(array) < 2:
            found[name] = array
            continue
        flat = array.reshape(len(array), -1)
        order = rng.permuted(np.tile(np.arange(len(array))[:, None], flat.shape[1]), axis=0)
        found[name] = np.take_along_axis(flat, order, 0).reshape(array.shape)
    return found


def drawn(arrays: Tensors, rng: np.random.Generator) -> Tensors:
    """Values between the sample's least and greatest; masks and texts redrawn."""
    return {name: _within(array, rng) for name, array in arrays.items()}


def masks(arrays: Tensors, rng: np.random.Generator) -> Tensors | None:
    """The sample with other masks; None where it has none."""
    if not any(is_mask(array) for array in arrays.values()):
        return None
    return {n: _within(a, rng) if is_mask(a) else a for n, a in arrays.items()}


def scaled(arrays: Tensors, by: float) -> Tensors | None:
    """Floating-point values times `by`; None where there are none."""
    if not any(array.dtype.kind == "f" for array in arrays.values()):
        return None
    with np.errstate(over="ignore"):
        found = {
            n: np.asarray(a * a.dtype.type(by)) if a.dtype.kind == "f" else a
            for n, a in arrays.items()
        }
    whole = all(np.isfinite(found[n]).all() or not np.isfinite(a).all() for n, a in arrays.items()
                if a.dtype.kind == "f")  # fmt: skip
    return found if whole else None


def over(
    arrays: Tensors, ranges: dict[str, tuple[int, int]], rng: np.random.Generator
) -> Tensors | None:
    """Whole numbers from all over `ranges`, its ends among them; None where there are none."""
    if not ranges:
        return None
    found = dict(arrays)
    for name, (least, most) in ranges.items():
        array = arrays[name]
        values = _spread(least, most, array.size, rng)
        found[name] = np.array(values, dtype=object).astype(array.dtype).reshape(array.shape)
    return found


def _spread(least: int, most: int, count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of every size between two; both ends where there is room for them."""
    values = []
    for _ in range(count):
        if rng.random() < 0.5:
            values.append(least + int(rng.random() * (most - least)))
            continue
        bound = most if rng.random() < 0.5 and most > 0 else least
        size = int(2 ** (rng.random() * max(1, abs(bound).bit_length())))
        values.append(min(most, max(least, size if bound > 0 else -size)))
    if count > 1:
        values[int(rng.integers(count))] = most
    if count > 2:
        values[int(rng.integers(count))] = least
    return [min(most, max(least, value)) for value in values]


def _within(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if array.dtype.kind == "O":
        known = [*array.reshape(-1), *WORDS]
        found = np.empty(array.shape, object)
        for index in range(array.size):
            found.reshape(-1)[index] = known[int(rng.integers(len(known)))]
        return found
    if is_mask(array):
        return _mask(array, rng)
    if array.dtype.kind in "iu":
        drawn = rng.integers(array.min(), array.max(), array.shape, array.dtype, endpoint=True)
        return np.asarray(drawn, array.dtype)
    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return array
    low, high = float(finite.min()), float(finite.max())
    found = rng.uniform(low, high, array.shape) if high > low else rng.normal(low, 1, array.shape)
    return np.asarray(np.where(np.isfinite(array), found, array), array.dtype)


def _mask(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Masks whose rows each let the first few elements through, never none and mostly not all.

    Booleans of one axis, or that already hide first elements, are drawn element by element.
    """
    if array.ndim < 2 or (array.ndim != 2 and array.dtype.kind == "b"):
        return (rng.random(array.shape) < 0.5).astype(array.dtype)
    hides = array.dtype.kind == "b" and not array[:, 0].any()
    lengths = rng.integers(1, array.shape[1], len(array), endpoint=True)
    shown = np.arange(array.shape[1]) < lengths[:, None]
    shown = shown.reshape(shown.shape + (1,) * (array.ndim - 2))
    shown = np.broadcast_to(~shown if hides else shown, array.shape)
    return shown.astype(array.dtype)
