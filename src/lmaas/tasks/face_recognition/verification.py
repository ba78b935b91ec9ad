"""How well vectors tell people apart: pairs of one person against pairs of two (ISO/IEC 19795-1).

Similarities are cosines. Of many vectors some are drawn, always the same, so that pairs are
bounded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.types import FaceRate, FaceSpec

RATES: Final = (0.1, 0.01, 0.001, 0.0001)
"""False-accept rates that a threshold is measured for."""
PRIMARY: Final = "tar_at_0.01"
PAIRS_BEYOND: Final = 10
"""A rate is measured where at least so many pairs of strangers lie beyond its threshold."""
MOST_VECTORS: Final = 3000
"""So many take part: 4.5 million pairs."""


class Pairs:
    """Similarities of all pairs: `same` of one person, `other` of two, each in rising order."""

    def __init__(self, vectors: np.ndarray, people: np.ndarray) -> None:
        if len(vectors) > MOST_VECTORS:
            drawn = np.random.default_rng(0).permutation(len(vectors))[:MOST_VECTORS]
            vectors, people = vectors[np.sort(drawn)], people[np.sort(drawn)]
        self.vectors, self.people = as_units(vectors), people
        rows, columns = np.triu_indices(len(vectors), 1)
        similar = (self.vectors @ self.vectors.T)[rows, columns]
        alike = people[rows] == people[columns]
        self.same, self.other = np.sort(similar[alike]), np.sort(similar[~alike])

    def threshold(self, rate: float) -> float:
        """The least similarity that a share of at most `rate` of the pairs of two people reaches.

        Raises ValueError where too few pairs say so.
        """
        allowed = math.floor(rate * len(self.other))
        if allowed < 1:
            raise ValueError(f"{len(self.other)} pairs do not measure a rate of {rate}")
        return float(np.nextafter(np.float32(self.other[-allowed - 1]), np.float32(2)))

    def accepted(self, threshold: float) -> float:
        """The share of one person's pairs that reach `threshold`."""
        return float((self.same >= threshold).mean())

    def equal_error_rate(self) -> float:
        """Where the shares of false accepts and of false rejects meet."""
        every = np.concatenate([self.same, self.other])
        steps = np.sort(every)
        rejected = np.searchsorted(self.same, steps, "left") / len(self.same)
        accepted = 1 - np.searchsorted(self.other, steps, "left") / len(self.other)
        place = int(np.argmin(np.abs(rejected - accepted)))
        return float((rejected[place] + accepted[place]) / 2)

    def expected_error(self) -> float:
        """The equal error rate of two normal distributions with these means and variances."""
        spread = math.sqrt((float(self.same.var()) + float(self.other.var())) / 2)
        apart = float(self.same.mean() - self.other.mean()) / max(spread, 1e-9)
        return 0.5 * math.erfc(apart / (2 * math.sqrt(2)))

    def rank_one(self, rate: float = 0.01) -> float | None:
        """Identification with strangers: every second person is known by its first photo.

        The share of the other photos of known people whose nearest known photo is the right one and
        beyond what a share of `rate` of the strangers' photos reaches; None for too few people.
        """
        names = np.unique(self.people)
        known = set(names[::2].tolist())
        first: dict[int, int] = {}
        for row, person in enumerate(self.people.tolist()):
            if person in known:
                first.setdefault(person, row)
        enrolled = np.array(sorted(first.values()), np.int64)
        is_known = np.isin(self.people, names[::2])
        probes = np.setdiff1d(np.flatnonzero(is_known), enrolled)
        strangers = np.flatnonzero(~is_known)
        if not len(probes) or not len(strangers):
            return None
        gallery = self.vectors[enrolled].T
        reached = np.sort((self.vectors[strangers] @ gallery).max(axis=1))
        beyond = reached[max(0, len(reached) - 1 - math.floor(rate * len(reached)))]
        similar = self.vectors[probes] @ gallery
        right = self.people[enrolled[similar.argmax(axis=1)]] == self.people[probes]
        return float((right & (similar.max(axis=1) > beyond)).mean())


def measure(vectors: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """All metrics of the task; none where there are no pairs of both kinds."""
    pairs = Pairs(vectors, people)
    if not len(pairs.same) or not len(pairs.other):
        return {}
    found = {
        "loss": pairs.expected_error(),
        "eer": pairs.equal_error_rate(),
        "stranger_pairs": float(len(pairs.other)),
    }
    for rate in RATES:
        if rate * len(pairs.other) >= PAIRS_BEYOND:
            threshold = found[f"threshold_at_{rate:g}"] = pairs.threshold(rate)
            found[f"tar_at_{rate:g}"] = pairs.accepted(threshold)
    if (ranked := pairs.rank_one()) is not None:
        found["rank1"] = ranked
    return found


def read_rates(face: FaceSpec, metrics: Mapping[str, float]) -> FaceSpec:
    """The spec with the thresholds among the metrics of a run: those of validation, else of the
    test."""
    for prefix in ("valid_", "test_"):
        rates = tuple(
            FaceRate(
                false_accept_rate=rate,
                threshold=_rounded_up(metrics[f"{prefix}threshold_at_{rate:g}"]),
                true_accept_rate=round(metrics[f"{prefix}tar_at_{rate:g}"], 6),
            )
            for rate in RATES
            if f"{prefix}threshold_at_{rate:g}" in metrics
        )
        if rates:
            pairs = int(metrics[f"{prefix}stranger_pairs"])
            return msgspec.structs.replace(face, rates=rates, pairs=pairs)
    return face


def _rounded_up(threshold: float) -> float:
    """So that no more strangers reach it."""
    return math.ceil(threshold * 1e6) / 1e6


def as_units(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) at length 1, float32; a row of zeros stays."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class Told(msgspec.Struct):
    """What is read of a face in an answer."""

    embedding: list[float]


def judged(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """The metrics of answers, each the JSON of the faces of an image of the person `expected`.

    Of several faces the first counts. Raises InvalidInput where too few people or pairs tell.
    """
    numbers = {name: number for number, name in enumerate(sorted(set(expected)))}
    vectors, people = [], []
    for answer, person in zip(answers, expected, strict=True):
        faces = msgspec.json.decode(answer, type=list[Told])
        if faces:
            vectors.append(faces[0].embedding)
            people.append(numbers[person])
    found = measure(np.array(vectors, np.float32), np.array(people)) if vectors else {}
    if PRIMARY not in found:
        raise InvalidInput(
            "Too few faces to judge by: there must be photos of one person, and 1,000 pairs of "
            "photos of two people.",
            hint="Give more samples; `expected` is who it is.",
            param="samples",
        )
    return found
