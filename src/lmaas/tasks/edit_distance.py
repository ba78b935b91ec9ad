"""How far two texts are apart."""

from collections.abc import Hashable, Sequence

import numpy as np


def distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The fewest substitutions, insertions and deletions from `one` to `other`."""
    numbers: dict[Hashable, int] = {}
    told = np.array([numbers.setdefault(each, len(numbers)) for each in other], np.int64)
    places = np.arange(len(told) + 1)
    row = places
    for each in one:
        unlike = (told != numbers.get(each, -1)).astype(np.int64)
        best = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + unlike))
        # An insertion costs 1 from the place before: the least of all before, and the way from it.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])
