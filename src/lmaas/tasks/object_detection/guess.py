"""What a detector's signature leaves open: told by its outputs' shapes, or asked for by name."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.tasks.images import infer_image
from lmaas.types import BATCH, DetectionSpec, ImageSpec, Signature, TensorSpec

ALL_STRIDES: Final = (8, 16, 32, 64)
USUAL: Final[dict[str, dict[str, Any]]] = {
    "centers": {
        "scores": "sigmoid", "background": "none", "boxes": "cxcywh", "normalized": False,
        "strides": (4,), "nms": 1.0, "threshold": 0.3,
    },
    "grid": {
        "scores": "probabilities", "background": "none", "boxes": "cxcywh", "normalized": False,
        "nms": 0.7, "threshold": 0.25,
    },
    "rows": {
        "scores": "probabilities", "background": "none", "boxes": "xyxy", "normalized": False,
        "nms": 1.0, "threshold": 0.25,
    },
    "queries": {
        "scores": "sigmoid", "background": "none", "boxes": "cxcywh", "normalized": True,
        "nms": 1.0, "threshold": 0.5,
    },
    "anchors": {
        "scores": "sigmoid", "background": "first", "boxes": "cycxhw", "normalized": True,
        "nms": 0.6, "threshold": 0.3,
    },
    "distributions": {
        "scores": "probabilities", "background": "none", "boxes": "xyxy", "normalized": False,
        "strides": ALL_STRIDES, "nms": 0.5, "threshold": 0.4,
    },
    "map": {
        "scores": "probabilities", "background": "none", "boxes": "xyxy", "normalized": False,
        "nms": 1.0, "threshold": 0.5,
    },
}  # fmt: skip
"""What each head has where nobody says otherwise."""
IMAGENET: Final = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
IMAGES: Final[dict[str, dict[str, Any]]] = {
    "grid": {"resize": "letterbox"},
    "rows": {"resize": "letterbox"},
    "queries": IMAGENET,
    "distributions": IMAGENET,
    "anchors": {"mean": (0.5,), "std": (0.5,)},
}
"""How models with a head usually read images, where nobody says it."""
SHAPES: Final = {
    "centers": 1, "grid": 1, "rows": 1, "queries": 2, "anchors": 2, "map": 1,
}  # fmt: skip
"""So many outputs a head reads; "distributions" reads two for each stride."""
FEW: Final = 1000
"""A model that picks its boxes itself gives no more than so many."""
STRIDES: Final = (8, 16, 32)
TEXT: Final = "text"
"""What a head "map" finds, where nobody says it."""
MOST_LINES: Final = 1000
SIDES, ROW = 4, 6
RF_DETR: Final = {"dets", "labels"}
"""What RF-DETR calls its outputs."""
HINT: Final = (
    'Say it: --detection \'{"head": "grid"}\' (a box and class scores for each cell, as of '
    'Ultralytics), "rows" (boxes, score, class), "queries" (DETR: boxes, class scores; where a '
    'class is no object with "scores": "softmax", "background": "last"), "anchors" (SSD), '
    '"distributions" (PicoDet), "map" (lines of text) or "centers" (CenterNet).'
)


def completed(signature: Signature) -> Signature:
    """The signature with image, head and labels. Raises InvalidInput for what does not fit."""
    if len(signature.inputs) != 1 or signature.inputs[0].shape[:1] not in ((BATCH,), (1,)):
        shapes = [list(spec.shape) for spec in signature.inputs]
        raise InvalidInput(
            f"A detector has one input, of one image or any number; received {shapes}."
        )
    given = signature.detection or guessed(signature)
    image = signature.image
    if image is None:
        image = infer_image(signature.inputs[0].shape)
        if image.channels == 3 and signature.inputs[0].dtype.startswith("float"):
            image = msgspec.structs.replace(image, **IMAGES.get(given.head, {}))
    spec = filled(given, signature.outputs)
    classes = _classes(spec, image, signature)
    labels = signature.labels
    if labels is None and spec.head == "map":
        labels = (TEXT,)
    if labels is None and classes is None:
        raise InvalidInput(
            "The outputs do not say how many classes there are.",
            hint="Give their names: --labels cat,dog.",
            param="labels",
        )
    labels = labels or tuple(str(number) for number in range(classes or 0))
    if not labels or len(set(labels)) != len(labels):
        raise InvalidInput("labels must be given, each once.", param="labels")
    if classes is not None and len(labels) != classes:
        raise InvalidInput(
            f"The model has {classes} classes; received {len(labels)} labels.", param="labels"
        )
    return msgspec.structs.replace(signature, image=image, detection=spec, labels=labels)


def guessed(signature: Signature) -> DetectionSpec:
    """The head that the shapes tell. Raises InvalidInput where they do not."""
    outputs = signature.outputs
    if len(outputs) == 1 and len(outputs[0].shape) == 3:
        _, first, last = outputs[0].shape
        if last == ROW and 0 < first <= FEW:
            return DetectionSpec(head="rows")
        if SIDES < first < last and last == _cells(signature):
            return DetectionSpec(head="grid")
    if len(outputs) == 1 and is_map(outputs[0].shape, signature):
        return DetectionSpec(head="map", most=MOST_LINES)
    if _are_distributions(signature):
        levels = len(outputs) // 2
        return DetectionSpec(head="distributions", strides=ALL_STRIDES[:levels])
    if {spec.name for spec in outputs} == RF_DETR:
        return DetectionSpec(head="queries", outputs=("dets", "labels"))
    raise InvalidInput(
        "The outputs do not say how they become boxes: "
        f"{', '.join(f'{spec.name} {list(spec.shape)}' for spec in outputs)[:500]}.",
        hint=HINT,
        param="detection",
    )


def is_map(shape: Sequence[int], signature: Signature) -> bool:
    """Whether an output has one number for each pixel of the input."""
    image = signature.image or infer_image(signature.inputs[0].shape)
    return tuple(shape[1:]) == (1, image.height, image.width)


def _cells(signature: Signature) -> int:
    """So many cells the usual strides make of the input."""
    return sum(_cells_of(signature, STRIDES))


def _cells_of(signature: Signature, strides: Sequence[int]) -> list[int]:
    image = signature.image or infer_image(signature.inputs[0].shape)
    return [-(-image.height // s) * -(-image.width // s) for s in strides]


def _are_distributions(signature: Signature) -> bool:
    """Whether the outputs are scores and then distributions for the cells of several strides."""
    levels, odd = divmod(len(signature.outputs), 2)
    shapes = [spec.shape[1:] for spec in signature.outputs]
    if odd or not 2 <= levels <= len(ALL_STRIDES) or any(len(shape) != 2 for shape in shapes):
        return False
    cells = _cells_of(signature, ALL_STRIDES[:levels])
    scores, sides = shapes[:levels], shapes[levels:]
    return (
        [shape[0] for shape in scores] == [shape[0] for shape in sides] == cells
        and len({shape[1] for shape in scores}) == len({shape[1] for shape in sides}) == 1
        and sides[0][1] % SIDES == 0
    )


def filled(given: DetectionSpec, outputs: Sequence[TensorSpec]) -> DetectionSpec:
    """The spec with all that its head usually has where it is left out, and with its outputs."""
    if given.head != "anchors" and (given.points or given.sizes != "log"):
        raise InvalidInput(
            f"Points and linear sizes are those of the head anchors; received {given.head}.",
            param="detection",
        )
    usual = {
        name: value
        for name, value in USUAL[given.head].items()
        if getattr(given, name) in (None, ())
    }
    spec = msgspec.structs.replace(given, **usual)
    wanted = SHAPES.get(spec.head, 2 * len(spec.strides))
    names = [each.name for each in outputs]
    if spec.outputs:
        if len(spec.outputs) != wanted or not set(spec.outputs) <= set(names):
            raise InvalidInput(
                f"The head {spec.head} reads {wanted} outputs; received {list(spec.outputs)} of "
                f"{names}.",
                param="detection",
            )
        return spec
    if len(names) != wanted:
        raise InvalidInput(
            f"The head {spec.head} reads {wanted} outputs; the model has {names}.",
            hint="Name those that count, in the order of the head: detection.outputs.",
            param="detection",
        )
    if wanted == 2 and spec.head in ("queries", "anchors"):
        names = _boxes_first(outputs, SIDES + 2 * len(spec.points))
    return msgspec.structs.replace(spec, outputs=tuple(names))


def _boxes_first(outputs: Sequence[TensorSpec], numbers: int) -> list[str]:
    sides = [spec.name for spec in outputs if spec.shape[-1:] == (numbers,)]
    if len(sides) != 1:
        told = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise InvalidInput(
            f"It is not clear which output holds boxes: {told}.",
            hint='Name them, boxes first: "outputs": ["pred_boxes", "logits"].',
            param="detection",
        )
    return [*sides, *(spec.name for spec in outputs if spec.name not in sides)]


def _classes(spec: DetectionSpec, image: ImageSpec, signature: Signature) -> int | None:
    """How many classes the outputs tell apart. Raises InvalidInput for shapes that do not fit."""
    shapes = {each.name: each.shape[1:] for each in signature.outputs}
    read = [shapes[name] for name in spec.outputs]
    hidden = 0 if spec.background == "none" else 1
    stride = spec.strides[0] if spec.strides else 1
    match spec.head:
        case "centers":
            cells = (image.height // stride, image.width // stride)
            fits = len(read[0]) == 3 and read[0][:2] == cells
            classes = read[0][-1] - SIDES
        case "grid":
            fits = len(read[0]) == 2
            channels = read[0][0 if spec.channels == "first" else -1]
            classes = channels - SIDES - spec.objectness
        case "rows":
            if len(read[0]) != 2 or read[0][1] != ROW:
                raise _misfit(spec, signature)
            return None
        case "map":
            fits, classes = (1, image.height, image.width) == read[0], 1
        case "queries" | "anchors":
            fits = read[0][-1:] == (SIDES + 2 * len(spec.points),) and len(read[1]) >= 2
            classes = read[1][-1]
        case _:
            levels = len(spec.strides)
            fits = all(len(shape) == 2 for shape in read) and all(
                shape[1] > 0 and shape[1] % SIDES == 0 for shape in read[levels:]
            )
            classes = read[0][-1]
            fits = fits and all(shape[1] == classes for shape in read[:levels])
    if not fits or classes - hidden < 1:
        raise _misfit(spec, signature)
    return classes - hidden


def _misfit(spec: DetectionSpec, signature: Signature) -> InvalidInput:
    told = ", ".join(f"{each.name} {list(each.shape)}" for each in signature.outputs)
    return InvalidInput(
        f"The outputs do not fit the head {spec.head}: {told}.", hint=HINT, param="detection"
    )
