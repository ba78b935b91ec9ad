"""Places in a map of yes and no, and the smallest rectangle around each, at any angle.

Places are pixels that touch, by an edge or a corner. They are found from the runs of each row, so
that the work goes with the runs and not with the pixels.
"""

from typing import Final, NamedTuple

import numpy as np

MOST_RUNS: Final = 200_000
"""A map with more runs is noise: of those above, the first ones are looked at."""


class Runs(NamedTuple):
    """Stretches of a row of a map: `row`, from `start` to before `end`, of place number `place`."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    place: np.ndarray


def places(inside: np.ndarray) -> Runs:
    """The runs of a map (H, W) of bool, sorted by place, then by row."""
    padded = np.zeros((inside.shape[0], inside.shape[1] + 2), np.int8)
    padded[:, 1:-1] = inside
    edges = np.diff(padded, axis=1)
    row, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    row, start, end = row[:MOST_RUNS], start[:MOST_RUNS], end[:MOST_RUNS]
    place = _joined(len(row), *_touching(row, start, end))
    order = np.argsort(place, kind="stable")
    return Runs(row[order], start[order], end[order], place[order])


def _touching(row: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs of neighbouring rows that touch."""
    # A run touches those of the next row that begin not after its end and end not before its
    # start: both rise along a row, so they are neighbours in the order of runs.
    width = int(end.max(initial=0)) + 2
    first = np.searchsorted(row * width + end, (row + 1) * width + start, "left")
    last = np.searchsorted(row * width + start, (row + 1) * width + end, "right")
    counts = np.maximum(last - first, 0)
    ones = np.repeat(np.arange(len(row)), counts)
    offsets = np.arange(len(ones)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ones, np.repeat(first, counts) + offsets


def _joined(count: int, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `count` runs the number of its place: the least number of the runs in it."""
    label = np.arange(count)
    while True:
        least = np.minimum(label[ones], label[others])
        new = label.copy()
        np.minimum.at(new, label[ones], least)
        np.minimum.at(new, label[others], least)
        # Along the chain of labels to its end, so that long places take few rounds.
        while not np.array_equal(new, new[new]):
            new = new[new]
        if np.array_equal(new, label):
            return label
        label = new


def hull(points: np.ndarray) -> np.ndarray:
    """The corners of the convex hull of points (n, 2), in order (Andrew, 1979)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))].tolist()
    if len(ordered) < 3:
        return np.array(ordered, np.float64)
    halves = []
    for side in (ordered, ordered[::-1]):
        found: list[list[float]] = []
        for x, y in side:
            while len(found) > 1:
                (a, b), (c, d) = found[-2], found[-1]
                if (c - a) * (y - b) - (d - b) * (x - a) > 0:
                    break
                found.pop()
            found.append([x, y])
        halves.append(found[:-1])
    return np.array(halves[0] + halves[1], np.float64)


class Rectangle(NamedTuple):
    """A rectangle at an angle: its middle, the unit vector along its first side, and its sides."""

    middle: np.ndarray
    along: np.ndarray
    sides: np.ndarray

    def corners(self, grown: float = 0.0) -> np.ndarray:
        """(4, 2), clockwise from the top left, with `grown` added on each side.

        The side that lies flatter is the width.
        """
        half = self.sides / 2 + grown
        across = np.array([-self.along[1], self.along[0]])
        one, other = self.along * half[0], across * half[1]
        if abs(self.along[0]) < abs(self.along[1]):
            one, other = other, one
        if one[0] < 0:
            one = -one
        if other[1] < 0:
            other = -other
        return np.stack(
            [self.middle - one - other, self.middle + one - other, self.middle + one + other,
             self.middle - one + other]
        )  # fmt: skip


def smallest(points: np.ndarray) -> Rectangle:
    """The rectangle of least area around points (n, 2), at least one.

    A side of it lies along a side of their hull (Freeman and Shapira, 1975).
    """
    corners = hull(points)
    edges = np.roll(corners, -1, axis=0) - corners
    lengths = np.linalg.norm(edges, axis=1)
    edges = edges[lengths > 0] / lengths[lengths > 0, None]
    if not len(edges):
        edges = np.array([[1.0, 0.0]])
    across = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    one, other = corners @ edges.T, corners @ across.T
    low = np.stack([one.min(axis=0), other.min(axis=0)], axis=1)
    high = np.stack([one.max(axis=0), other.max(axis=0)], axis=1)
    best = int((high - low).prod(axis=1).argmin())
    middle = (low[best] + high[best]) / 2
    return Rectangle(
        edges[best] * middle[0] + across[best] * middle[1], edges[best], high[best] - low[best]
    )
