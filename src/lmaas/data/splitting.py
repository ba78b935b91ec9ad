"""Which samples are learned from and which are held out, and whether any are both."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput


def hold_out(
    size: int, share: float, seed: int, labels: Sequence[Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sample numbers to learn from and to hold out, each in rising order.

    With `labels` each class keeps its share, as nearly as whole samples allow (largest remainders),
    and at least one sample to learn from. The same arguments give the same split.
    """
    random = np.random.default_rng([seed, 0x5E11])
    if labels is None:
        groups = [np.arange(size)]
    else:
        _, numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
        groups = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    exact = np.array([len(group) * share for group in groups])
    counts = np.floor(exact).astype(int)
    total = round(size * share) if share else 0
    if share and size > 1:
        total = max(1, total)
    for group in np.argsort(-(exact - counts), kind="stable")[: max(0, total - counts.sum())]:
        counts[group] += 1
    counts = np.minimum(counts, [max(0, len(group) - 1) for group in groups])
    held = [random.permutation(g)[:n] for g, n in zip(groups, counts.tolist(), strict=True)]
    out = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(size), out), out


def hold_out_groups(
    size: int, share: float, seed: int, labels: Sequence[Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `hold_out`, with a `share` of the labels instead of the samples: all samples of a label
    are learned from, or all are held out.
    """
    assert labels is not None
    names, numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    kept, _ = hold_out(len(names), share, seed)
    learned = np.isin(numbers, kept)
    return np.flatnonzero(learned), np.flatnonzero(~learned)


def overlap(learned: Iterable[bytes], held: Iterable[bytes]) -> list[int]:
    """Which of the held-out samples, by their content's digest, are learned from as well."""
    known = set(learned)
    return [index for index, digest in enumerate(held) if digest in known]


def numbers_of(
    names: Sequence[str], labels: Sequence[str], place: Callable[[int], str] | None = None
) -> np.ndarray:
    """The number of each name in `labels`, int64. Raises InvalidInput for an unknown one."""
    known = {label: number for number, label in enumerate(labels)}
    numbers = np.empty(len(names), np.int64)
    for index, name in enumerate(names):
        number = known.get(name)
        if number is None:
            told = f"{place(index)}: " if place is not None else ""
            raise InvalidInput(
                f"{told}the label {name!r} is not one of those learned: "
                f"{', '.join(map(repr, labels[:20]))}.",
                param="data",
            )
        numbers[index] = number
    return numbers


def classes(names: Sequence[str]) -> tuple[str, ...]:
    """The labels in order, numbers by size. Raises InvalidInput where there is only one."""
    found = sorted(set(names))
    if len(found) < 2:
        raise InvalidInput(
            f"The data has one class only: {found[0]!r}. There is nothing to tell apart.",
            param="data",
        )
    if all(name.lstrip("-").isdecimal() for name in found):
        found.sort(key=int)
    return tuple(found)
