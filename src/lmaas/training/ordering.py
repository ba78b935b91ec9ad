"""In which order an epoch shows its samples: drawn, and where they have lengths, like beside like.

A pure function of seed and epoch, so that a run that is taken up again sees the same.
"""

from typing import Final

import numpy as np

BATCHES: Final = 32
"""So many batches are drawn together and sorted by length before they are cut."""


def order_of(
    rows: int, seed: int, epoch: int, batches: int, lengths: np.ndarray | None = None
) -> np.ndarray:
    """The numbers of all samples of an epoch that is cut into `batches`, as `bounds` cuts.

    With `lengths` (rows,) samples of a batch have nearly the same; which samples those are, and the
    order of the batches, is drawn still.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(rows)
    if lengths is None:
        return order
    cuts = np.arange(batches + 1) * rows // batches
    parts: list[np.ndarray] = []
    for first in range(0, batches, BATCHES):
        last = min(batches, first + BATCHES)
        window = order[cuts[first] : cuts[last]]
        window = window[np.argsort(lengths[window], kind="stable")]
        parts += np.split(window, cuts[first + 1 : last] - cuts[first])
    # Batches keep their places' sizes, which differ by one at most: equal ones change places.
    sizes = np.array([len(part) for part in parts])
    arranged: list[np.ndarray] = list(parts)
    for size in np.unique(sizes):
        at = np.flatnonzero(sizes == size)
        for to, source in zip(at.tolist(), random.permutation(at).tolist(), strict=True):
            arranged[to] = parts[source]
    return np.concatenate(arranged)
