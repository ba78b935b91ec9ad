"""COCO's mean average precision: pycocotools' own numbers, and cases that one can reckon."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.tasks.object_detection.boxes import corners

NONE = np.zeros((0, 4))


def measured(images: list[dict[str, Any]], classes: int) -> dict[str, float]:
    found = AveragePrecision(classes)
    for image in images:
        found.add(
            image["boxes"], image["scores"], image["classes"], image["true"], image["kinds"],
            image.get("crowd"),
        )  # fmt: skip
    return found.result()


def drawn(random: np.random.Generator, classes: int, crowds: bool) -> dict[str, Any]:
    """An image: true boxes, predictions near some of them, and others anywhere."""
    count = int(random.integers(0, 9))
    middle, sides = random.uniform(40, 160, (count, 2)), random.uniform(5, 60, (count, 2))
    true = corners(np.concatenate([middle, sides], axis=1), "cxcywh")
    kinds = random.integers(0, classes, count)
    hit = np.flatnonzero(random.random(count) < 0.9)
    hit = np.concatenate([hit, hit[: count // 2]])
    near = true[hit] + random.normal(0, 1, (len(hit), 4)) * random.uniform(0, 6)
    real = (near[:, 2:] - near[:, :2] > 1).all(axis=1)
    hit, near = hit[real], near[real]
    low = random.uniform(0, 150, (int(random.integers(0, 140)), 2))
    far = np.concatenate([low, low + random.uniform(2, 50, low.shape)], axis=1)
    boxes = np.concatenate([near, far])
    scores = np.round(random.random(len(boxes)), 2)  # with ties
    scores[: len(near)] = np.round(scores[: len(near)] ** 0.3, 2)
    own = np.concatenate([kinds[hit], random.integers(0, classes, len(far))])
    crowd = random.random(count) < (0.2 if crowds else 0)
    return {
        "boxes": boxes, "scores": scores, "classes": own, "true": true,
        "kinds": kinds, "crowd": crowd,
    }  # fmt: skip


def by_pycocotools(images: list[dict[str, Any]], classes: int) -> dict[str, float]:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def box(corners: np.ndarray) -> list[float]:
        left, top, right, bottom = corners.tolist()
        return [left, top, right - left, bottom - top]

    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        crowd = image.get("crowd", np.zeros(len(image["true"]), bool))
        for corner, kind, many in zip(image["true"], image["kinds"], crowd, strict=True):
            told = box(corner)
            true.append(
                {
                    "id": len(true) + 1, "image_id": number, "category_id": int(kind) + 1,
                    "bbox": told, "area": told[2] * told[3], "iscrowd": int(many),
                }
            )  # fmt: skip
        for corner, score, kind in zip(
            image["boxes"], image["scores"], image["classes"], strict=True
        ):
            found.append(
                {
                    "image_id": number, "category_id": int(kind) + 1, "bbox": box(corner),
                    "score": float(score),
                }
            )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": true,
            "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        }
        data.createIndex()
        measuring = evaluation.COCOeval(data, data.loadRes(found), "bbox")
        measuring.evaluate()
        measuring.accumulate()
        measuring.summarize()
    return {"map": float(measuring.stats[0]), "map50": float(measuring.stats[1])}


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_numbers_are_those_of_pycocotools(seed: int, crowds: bool) -> None:
    random = np.random.default_rng(seed)
    images = [drawn(random, 3, crowds) for _ in range(15)]
    ours, theirs = measured(images, 4), by_pycocotools(images, 4)
    assert 0.02 < ours["map"] < 0.98
    assert ours == pytest.approx(theirs, abs=1e-9)


TRUE = np.array([[10.0, 10, 20, 20], [40, 40, 60, 60]])


def image(boxes: Any, scores: Any, classes: Any = None) -> dict[str, Any]:
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return {
        "boxes": boxes,
        "scores": np.asarray(scores, float),
        "classes": np.zeros(len(boxes), int) if classes is None else np.asarray(classes),
        "true": TRUE,
        "kinds": np.zeros(2, int),
    }


def test_what_one_can_reckon() -> None:
    assert measured([image(TRUE, [0.9, 0.8])], 1) == {"map": 1.0, "map50": 1.0}
    assert measured([image(NONE, [])], 1) == {"map": 0.0, "map50": 0.0}
    # One of two is found: precision 1 up to a recall of 0.5, at 51 of 101 places.
    assert measured([image(TRUE[:1], [0.9])], 1)["map50"] == pytest.approx(51 / 101)
    # A second prediction of the same object is wrong, but less sure than the right ones.
    assert measured([image(TRUE[[0, 1, 1]], [0.9, 0.8, 0.7])], 1)["map50"] == 1.0
    # A box of 10 x 10 that is 8 x 10 has an overlap of 0.8: right up to there, 7 of 10 levels.
    off = TRUE.copy()
    off[0, 2] = 18
    got = measured([image(off, [0.9, 0.8])], 1)
    assert got["map50"] == 1.0
    assert 0.7 < got["map"] < 1.0
    # Of another class it is no hit.
    assert measured([image(TRUE, [0.9, 0.8], [1, 1])], 2) == {"map": 0.0, "map50": 0.0}


def test_without_true_boxes_there_is_no_number() -> None:
    nothing = {**image(TRUE, [0.9, 0.8]), "true": NONE, "kinds": np.zeros(0, int)}
    assert measured([nothing], 1) == {}
