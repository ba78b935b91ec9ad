"""From a detector's raw outputs to boxes with classes and scores, one function for each head.

What a head is, is data (`types.DetectionSpec`). Boxes here lie in pixels of the model's input.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from lmaas.errors import LMaaSError
from lmaas.tasks.base import Tensors, softmax
from lmaas.tasks.object_detection import text_map
from lmaas.tasks.object_detection.boxes import MOST, corners, suppress
from lmaas.types import DetectionSpec, ImageSpec, Signature

SIDES: Final = 4
LARGEST_LOG: Final = 16.0
"""The log of a side above this is no side of an image; its power would overflow."""


class Found(NamedTuple):
    """Boxes (n, 4) of one image, their scores and class numbers, the best first; `points`
    (n, k, 2) where the head has some; `corners` (n, 4, 2) where places lie aslant.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    points: np.ndarray | None = None
    corners: np.ndarray | None = None


class Parts(NamedTuple):
    """Outputs of a batch as numbers that compare: `boxes` (N, K, 4) in shares of the input where
    they are sizes or places, `scores` (N, K, C) probabilities; `classes` (N, K) of the head "rows".
    Of the head "map" the scores are those of pixels, and there are no boxes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray | None = None


def split(outputs: Tensors, signature: Signature) -> Parts:
    """The outputs of a batch taken apart."""
    spec = signature.detection
    assert spec is not None
    assert signature.image is not None
    given = [np.asarray(outputs[name], np.float32) for name in spec.outputs]
    return HEADS[spec.head](given, spec, signature.image)


def find(
    parts: Parts,
    row: int,
    signature: Signature,
    anchors: np.ndarray | None,
    threshold: float,
    nms: float,
) -> Found:
    """The boxes of one image of a batch. Raises LMaaSError for outputs that are no numbers."""
    spec, image = signature.detection, signature.image
    assert spec is not None
    assert image is not None
    scores = parts.scores[row]
    if not np.isfinite(scores).all():
        raise LMaaSError("The model's scores hold NaN or infinity for this input.")
    if spec.head == "map":
        return _aslant(scores.reshape(image.height, image.width), spec, threshold)
    cells, classes = _chosen(scores, parts, row, spec, image, threshold)
    best = scores[cells, 0 if parts.classes is not None else classes]
    order = np.argsort(-best, kind="stable")
    cells, classes, best = cells[order], classes[order], best[order].astype(np.float64)
    raw = parts.boxes[row][cells].astype(np.float64)
    boxes = _boxes(raw[:, :SIDES], cells, spec, image, anchors)
    points = _points(raw[:, SIDES:], cells, spec, image, anchors) if spec.points else None
    if not np.isfinite(boxes).all() or (points is not None and not np.isfinite(points).all()):
        raise LMaaSError("The model's boxes hold NaN or infinity for this input.")
    real = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    kept: np.ndarray | slice = slice(spec.most)
    if nms < 1:
        kept = suppress(boxes[real], best[real], classes[real], nms, spec.most)
    rows = real[kept]
    told = None if points is None else points[rows]
    return Found(boxes[rows], best[rows], classes[rows], points=told)


def _aslant(likely: np.ndarray, spec: DetectionSpec, threshold: float) -> Found:
    """Lines of text, and the upright boxes around them."""
    found = text_map.find(likely, spec, threshold)
    boxes = np.concatenate([found.corners.min(axis=1), found.corners.max(axis=1)], axis=1)
    classes = np.zeros(len(boxes), np.int64)
    return Found(boxes, found.scores, classes, corners=found.corners)


def _chosen(
    scores: np.ndarray,
    parts: Parts,
    row: int,
    spec: DetectionSpec,
    image: ImageSpec,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The cells and classes whose scores reach the threshold, at most `MOST`, the best ones."""
    if parts.classes is not None:
        cells = np.flatnonzero((scores[:, 0] >= threshold) & (scores[:, 0] > 0))
        return cells[:MOST], parts.classes[row][cells[:MOST]].astype(np.int64)
    if spec.scores == "softmax" and spec.head == "queries":
        # Of a query the likeliest class, as the classes share one probability.
        classes = scores.argmax(axis=1)
        cells = np.flatnonzero(scores[np.arange(len(scores)), classes] >= threshold)
        return cells, classes[cells]
    wanted = scores >= threshold
    if spec.head == "centers":
        wanted &= _peaks(scores, spec, image)
    flat = np.flatnonzero(wanted)
    if len(flat) > MOST:
        values = scores.ravel()[flat]
        flat = flat[np.argpartition(-values, MOST - 1)[:MOST]]
    return flat // scores.shape[1], flat % scores.shape[1]


def _peaks(scores: np.ndarray, spec: DetectionSpec, image: ImageSpec) -> np.ndarray:
    """Which cells (h * w, C) are the largest among their neighbours."""
    stride = spec.strides[0]
    height, width = image.height // stride, image.width // stride
    grid = scores.reshape(height, width, -1)
    padded = np.pad(grid, ((1, 1), (1, 1), (0, 0)), constant_values=-1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    most = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return np.asarray((grid >= most).reshape(scores.shape))


def _boxes(
    raw: np.ndarray,
    cells: np.ndarray,
    spec: DetectionSpec,
    image: ImageSpec,
    anchors: np.ndarray | None,
) -> np.ndarray:
    """Chosen boxes (n, 4) as corners in pixels of the input."""
    assert spec.boxes is not None
    size = np.array([image.width, image.height] * 2, np.float64)
    match spec.head:
        case "centers":
            stride = spec.strides[0]
            y, x = np.divmod(cells, image.width // stride)
            sides = np.exp(np.minimum(raw[:, :2], LARGEST_LOG))
            middle = np.stack([x, y], axis=1) + raw[:, 2:]
            return corners(np.concatenate([middle, sides], axis=1) * stride, "cxcywh")
        case "anchors":
            if anchors is None or len(anchors) != spec.anchors:
                raise LMaaSError(
                    "The model's anchors are not beside it.", hint="Push the model again."
                )
            if spec.boxes == "cycxhw":
                raw = raw[:, [1, 0, 3, 2]]
            own = anchors[cells].astype(np.float64)
            raw = raw * np.asarray(spec.variances)
            middle = own[:, :2] + raw[:, :2] * own[:, 2:]
            sides = raw[:, 2:]
            if spec.sizes == "log":
                sides = np.exp(np.minimum(sides, LARGEST_LOG))
            sides = own[:, 2:] * sides
            return corners(np.concatenate([middle, sides], axis=1), "cxcywh") * size
        case "distributions":
            middle = _middles(spec, image)[cells]
            away = raw * size
            return np.concatenate([middle - away[:, :2], middle + away[:, 2:]], axis=1)
        case _:
            # Taken apart, they are shares of the input already.
            return corners(raw, spec.boxes) * size


def _points(
    raw: np.ndarray,
    cells: np.ndarray,
    spec: DetectionSpec,
    image: ImageSpec,
    anchors: np.ndarray | None,
) -> np.ndarray:
    """The points (n, k, 2) of chosen boxes in pixels of the input, from raw offsets (n, 2k)."""
    assert anchors is not None, "the boxes have been read from them"
    own = anchors[cells].astype(np.float64)[:, None]
    offsets = raw.reshape(len(raw), -1, 2)
    if spec.boxes == "cycxhw":
        offsets = offsets[..., ::-1]
    places = own[..., :2] + offsets * np.asarray(spec.variances[:2]) * own[..., 2:]
    return np.asarray(places * (image.width, image.height))


def _middles(spec: DetectionSpec, image: ImageSpec) -> np.ndarray:
    """The middle of each cell of each stride, (cells, 2) as x, y in pixels."""
    found = []
    for stride in spec.strides:
        y, x = np.mgrid[: -(-image.height // stride), : -(-image.width // stride)]
        found.append((np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride)
    return np.concatenate(found)


def _shares(boxes: np.ndarray, spec: DetectionSpec, image: ImageSpec) -> np.ndarray:
    """Raw boxes (…, 4) in shares of the input's sides."""
    if spec.normalized:
        return boxes
    size = (image.height, image.width) if spec.boxes == "cycxhw" else (image.width, image.height)
    return boxes / np.array(size * 2, np.float32)


def _probabilities(scores: np.ndarray, spec: DetectionSpec) -> np.ndarray:
    """Class scores (…, C) as probabilities, without the class of no object."""
    if spec.scores == "sigmoid":
        scores = sigmoid(scores)
    elif spec.scores == "softmax":
        scores = softmax(scores)
    if spec.background == "first":
        return scores[..., 1:]
    return scores[..., :-1] if spec.background == "last" else scores


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in float32, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values.astype(np.float32))))


def _centers(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    (grid,) = given
    cells = grid.reshape(len(grid), -1, grid.shape[-1])
    return Parts(cells[..., :SIDES], sigmoid(cells[..., SIDES:]))


def _grid(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    (cells,) = given
    if spec.channels == "first":
        cells = np.swapaxes(cells, 1, 2)
    boxes, scores = cells[..., :SIDES], cells[..., SIDES:]
    if spec.objectness:
        scores = scores[..., :1] * scores[..., 1:]
    return Parts(_shares(boxes, spec, image), _probabilities(scores, spec))


def _rows(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    (rows,) = given
    boxes = _shares(rows[..., :SIDES], spec, image)
    return Parts(boxes, rows[..., 4:5], np.rint(rows[..., 5]))


def _queries(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    boxes, scores = given
    return Parts(_shares(boxes, spec, image), _probabilities(scores, spec))


def _anchors(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    boxes, scores = (each.reshape(len(each), -1, each.shape[-1]) for each in given)
    return Parts(boxes, _probabilities(scores, spec))


def _distributions(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    levels = len(spec.strides)
    scores = np.concatenate(given[:levels], axis=1)
    sides = []
    for stride, told in zip(spec.strides, given[levels:], strict=True):
        bins = told.reshape(*told.shape[:2], SIDES, -1)
        sides.append(softmax(bins) @ np.arange(bins.shape[-1], dtype=np.float32) * stride)
    size = np.array([image.width, image.height] * 2, np.float32)
    return Parts(np.concatenate(sides, axis=1) / size, _probabilities(scores, spec))


def _map(given: list[np.ndarray], spec: DetectionSpec, image: ImageSpec) -> Parts:
    (likely,) = given
    scores = _probabilities(likely.reshape(len(likely), -1, 1), spec)
    return Parts(np.zeros((len(likely), 0, SIDES), np.float32), scores)


HEADS: Final[dict[str, Callable[[list[np.ndarray], DetectionSpec, ImageSpec], Parts]]] = {
    "centers": _centers,
    "grid": _grid,
    "rows": _rows,
    "queries": _queries,
    "anchors": _anchors,
    "distributions": _distributions,
    "map": _map,
}
ORDERLESS: Final = ("rows", "queries")
"""Heads whose boxes come in no fixed order: where two are about as good, rounding decides."""
OWN_UNITS: Final = ("centers", "anchors", "map")
"""Heads whose raw boxes are logs and offsets, and no shares of the input."""
