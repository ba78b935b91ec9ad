"""The task `object-detection`: any image file or array in, boxes with labels and scores out.

A body that is no JSON is an image file, whatever its header says. A JSON call gives `inputs` as a
base64 image file (or a list of them), as an array in the shape of the model's own input (used as it
is), or, with `parameters.pixels` true, as an array of 0-255 pixels of any size. Answers have the
Hugging Face shape: `[{"label", "score", "box": {"xmin", "ymin", "xmax", "ymax"}}]`, best first, in
pixels of the upright image as it was sent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import image, json, media, tensor
from lmaas.codecs.image import Placement
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors
from lmaas.tasks.images import ANCHORS_FILE, check_count, check_image, files_of
from lmaas.tasks.object_detection import guess, heads, matching
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.tasks.object_detection.spec import SPEC, Parameters
from lmaas.types import BATCH, JSON, TENSORS, Answer, ImageSpec, Payload, Signature

MEASURED_FROM: Final = 0.01
"""Average precision counts boxes from this score on: surer ones decide it."""


class Box(msgspec.Struct, frozen=True):
    """A box in pixels."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Detection(msgspec.Struct, frozen=True):
    """One object that was found."""

    label: str
    score: float
    box: Box


class Placed(msgspec.Struct, frozen=True):
    """One image as the model takes it, and where in it the original lies."""

    array: np.ndarray
    placement: Placement


class ObjectDetection:
    """Images in, boxes out."""

    spec = SPEC

    def __init__(self, anchors: np.ndarray | None = None) -> None:
        self._anchors = anchors

    def bind(self, folder: Path) -> Task:
        """The task with the model's anchors, where it has some."""
        path = folder / ANCHORS_FILE
        return ObjectDetection(read_anchors(path)) if path.is_file() else self

    def check_signature(self, signature: Signature) -> Signature:
        """Complete labels, image and head; refuse a model that is no detector."""
        whole = guess.completed(signature)
        assert whole.image is not None
        check_image(whole.image, whole.inputs[0].shape, whole.inputs[0].dtype)
        if whole.image.layout == "flat" or "string" in {spec.dtype for spec in whole.outputs}:
            raise InvalidInput("A detector takes images with rows and columns, and gives numbers.")
        return whole

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Images or arrays to the model's input, one row for each image."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        given = payload.parameters
        if payload.media_type != JSON:
            rows, single = [_from_file(payload.body, signature, limits)], True
            parameters = _parameters(given, signature)
        else:
            call = json.read_call(payload.body)
            parameters = _parameters(given | (call.parameters or {}), signature)
            rows, single = _from_json(call.inputs, parameters, signature, limits)
        told = {
            "placements": [row.placement for row in rows],
            "threshold": parameters.threshold,
            "overlap": parameters.overlap,
        }
        name = signature.inputs[0].name
        arrays = [row.array[np.newaxis] for row in rows]
        if len(rows) == 1:
            return Batch(arrays={name: arrays[0]}, size=1, single=single, parameters=told)
        if signature.batch and signature.inputs[0].shape[0] == BATCH:
            whole = {name: np.concatenate(arrays)}
            return Batch(arrays=whole, size=len(rows), single=single, parameters=told)
        parts = tuple(Batch(arrays={name: array}, size=1) for array in arrays)
        return Batch(arrays={}, size=len(rows), single=single, parameters=told, parts=parts)

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Boxes: a list for one image, a list of lists for several."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        spec = signature.detection
        assert spec is not None
        assert spec.threshold is not None
        assert spec.nms is not None
        asked, overlap = batch.parameters["threshold"], batch.parameters["overlap"]
        threshold = spec.threshold if asked is None else asked
        nms = spec.nms if overlap is None else overlap
        parts = heads.split(outputs, signature)
        found = [
            _told(
                heads.find(parts, row, signature, self._anchors, threshold, nms), place, signature
            )
            for row, place in enumerate(batch.parameters["placements"])
        ]
        return Answer(body=msgspec.json.encode(found[0] if batch.single else found))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Boxes in shares of the input, scores as probabilities."""
        return matching.view(outputs, signature)

    def aligned(self, want: Tensors, have: Tensors, signature: Signature) -> Tensors:
        """See `base.Orderless`: boxes of a head that gives them in no order are matched."""
        return matching.aligned(want, have, signature)

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Mean average precision against true boxes `targets` (N, most, 5): class number, then
        corners in pixels of the input; rows of a class below 0 are none.
        """
        assert signature.labels is not None
        measured = AveragePrecision(len(signature.labels))
        parts = heads.split(outputs, signature)
        assert signature.detection is not None
        nms = signature.detection.nms or 1.0
        for row, true in enumerate(targets):
            found = heads.find(parts, row, signature, self._anchors, MEASURED_FROM, nms)
            there = true[true[:, 0] >= 0]
            measured.add(found.boxes, found.scores, found.classes, there[:, 1:], there[:, 0])
        return measured.result()

    def shown(self, result: Any) -> Shown:
        """A line for each box, and one for an image without any."""
        several = bool(result) and isinstance(result[0], list)
        rows: list[tuple[str, ...]] = []
        for index, boxes in enumerate(result if several else [result]):
            which = (str(index),) if several else ()
            rows += [
                (
                    *which,
                    str(each["label"]),
                    f"{each['score']:.4f}",
                    *(f"{each['box'][side]:.1f}" for side in Box.__struct_fields__),
                )
                for each in boxes
            ]
            if not boxes:
                rows.append((*which, "nothing found", *[""] * 5))
        columns = ("label", "score", *Box.__struct_fields__)
        return Shown((*(["input"] if several else []), *columns), rows)

    def marks(self, result: Any) -> list[Mark]:
        """A box with label and score for each object."""
        return [
            Mark(
                tuple(each["box"][side] for side in Box.__struct_fields__),
                f"{each['label']} {each['score']:.2f}",
                each["label"],
            )
            for each in result
        ]

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The image files that the rows name, by paths from `folder`, as base64."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """All boxes of each image, and how many there are."""
        return [{"boxes": boxes, "count": len(boxes)} for boxes in result]


def read_anchors(path: Path) -> np.ndarray:
    """A file of anchors, (A, 4). Raises InvalidInput."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        anchors: np.ndarray = load_file(path)["anchors"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"The anchors in {path.name} cannot be read: {error}.") from None
    if anchors.ndim != 2 or anchors.shape[1] != 4 or not np.isfinite(anchors).all():
        raise InvalidInput(
            f"The anchors must be finite numbers of shape (A, 4); received {anchors.shape}."
        )
    return anchors


def _told(found: heads.Found, place: Placement, signature: Signature) -> list[Detection]:
    labels = signature.labels
    assert labels is not None
    boxes = np.round(place.back(found.boxes), 2)
    told = []
    for box, score, number in zip(
        boxes.tolist(), found.scores.round(6).tolist(), found.classes.tolist(), strict=True
    ):
        if box[2] > box[0] and box[3] > box[1] and 0 <= number < len(labels):
            told.append(Detection(labels[number], score, Box(*box)))
    return told


def _parameters(given: dict[str, Any], signature: Signature) -> Parameters:
    if not given:
        return DEFAULTS
    try:
        asked = msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None
    spec = signature.detection
    assert spec is not None
    if asked.overlap is not None and spec.nms == 1:
        raise InvalidInput(
            f"overlap cannot be honoured: the head {spec.head} of this model leaves no boxes out "
            "because they overlap.",
            param="overlap",
        )
    return asked


def _from_file(data: bytes, signature: Signature, limits: Limits) -> Placed:
    spec = signature.image
    assert spec is not None
    pixels, size = image.decode_sized(data, spec, limits)
    array = image.to_array(pixels, spec, signature.inputs[0].dtype, size)
    return Placed(array, Placement.of(size, spec))


def _from_json(
    inputs: Any, parameters: Parameters, signature: Signature, limits: Limits
) -> tuple[list[Placed], bool]:
    spec, entry = signature.image, signature.inputs[0]
    assert spec is not None
    if isinstance(inputs, str):
        data = media.from_base64(inputs, limits, param="inputs")
        return [_from_file(data, signature, limits)], True
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], str):
        texts = [text for text in inputs if isinstance(text, str)]
        if len(texts) != len(inputs):
            raise InvalidInput("inputs mixes images and other values.", param="inputs")
        check_count(len(texts), spec, limits)
        files = (
            media.from_base64(text, limits, param=f"inputs[{index}]")
            for index, text in enumerate(texts)
        )
        return [_from_file(data, signature, limits) for data in files], False
    if parameters.pixels:
        pixels = json.to_array(inputs, "float64", limits, name="inputs")
        array = image.from_numbers(pixels, spec, entry.dtype)
        return [Placed(array, Placement.of((pixels.shape[1], pixels.shape[0]), spec))], True
    array = json.to_array(inputs, entry.dtype, limits, name="inputs")
    single = array.ndim == len(entry.shape) - 1
    if single:
        array = array[np.newaxis]
    tensor.check_shape(array.shape, entry)
    place = Placement.of((spec.width, spec.height), _own(spec))
    return [Placed(row, place) for row in array], single


def _own(spec: ImageSpec) -> ImageSpec:
    """An array in the input's own shape is not moved."""
    return msgspec.structs.replace(spec, resize="stretch")


DEFAULTS: Final = Parameters()
TASK: Final[Task] = ObjectDetection()
