"""Answers of a detector against the right boxes: how a compressed model is judged."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.types import UNREADABLE

SIDES = ("xmin", "ymin", "xmax", "ymax")


class Object(msgspec.Struct):
    """A box, as a detector answers it or as a list of its corners."""

    label: str
    box: list[float] | dict[str, float]
    score: float = 1.0

    def corners(self) -> list[float]:
        """xmin, ymin, xmax, ymax. Raises ValueError."""
        given = self.box
        found = [given[side] for side in SIDES] if isinstance(given, dict) else given
        if len(found) != len(SIDES):
            raise ValueError(f"a box has {len(found)} numbers, not 4")
        return found


def measure(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """`map` and `map50` of answers, each the JSON of its boxes. Raises InvalidInput."""
    told = [_read(answer) for answer in answers]
    right = []
    for number, text in enumerate(expected):
        try:
            right.append(_read(text))
        except (*UNREADABLE, KeyError, ValueError) as error:
            raise InvalidInput(
                f"samples[{number}]: the right answer is no list of boxes: {error}.",
                hint='Give [{"label": "cat", "box": [xmin, ymin, xmax, ymax]}, …].',
                param="samples",
            ) from None
    names = sorted({label for each in (*told, *right) for label in each[0]})
    numbers = {name: number for number, name in enumerate(names)}
    measured = AveragePrecision(len(names))
    for (labels, scores, boxes), (true, _, true_boxes) in zip(told, right, strict=True):
        measured.add(
            boxes,
            scores,
            np.array([numbers[label] for label in labels], np.int64),
            true_boxes,
            np.array([numbers[label] for label in true], np.int64),
        )
    return measured.result()


def _read(text: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, scores and boxes (n, 4)."""
    found: list[Object] = msgspec.json.decode(text, type=list[Object])
    boxes: Any = [each.corners() for each in found]
    return (
        [each.label for each in found],
        np.array([each.score for each in found], np.float64),
        np.array(boxes, np.float64).reshape(-1, len(SIDES)),
    )
