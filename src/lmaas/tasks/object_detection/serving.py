"""The task `object-detection`: any image file or array in, boxes with labels and scores out.

A body that is no JSON is an image file, whatever its header says. A JSON call gives `inputs` as a
base64 image file (or a list of them), as an array in the shape of the model's own input (used as it
is), or, with `parameters.pixels` true, as an array of 0-255 pixels of any size. Answers have the
Hugging Face shape: `[{"label", "score", "box": {"xmin", "ymin", "xmax", "ymax"}}]`, best first, in
pixels of the upright image as it was sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs import image, json, media, tensor
from lmaas.codecs.drawing import drawn_image
from lmaas.codecs.image import Placement
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors
from lmaas.tasks.images import (
    ANCHORS_FILE,
    batch_of_arrays,
    batch_of_images,
    check_count,
    check_image,
    files_of,
)
from lmaas.tasks.labels import Box, Detection
from lmaas.tasks.object_detection import guess, heads, matching, pipeline
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.tasks.object_detection.parameters import read_parameters
from lmaas.tasks.object_detection.spec import SPEC, Parameters
from lmaas.tasks.pipelines import BoundPart, Conversation, Places
from lmaas.types import JSON, TENSORS, Answer, ImageSpec, Part, Payload, Signature

MEASURED_FROM: Final = 0.01
"""Average precision counts boxes from this score on: surer ones decide it."""


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
            parameters = read_parameters(given, signature)
        else:
            call = json.read_call(payload.body)
            parameters = read_parameters(given | (call.parameters or {}), signature)
            rows, single = _from_json(call.inputs, parameters, signature, limits)
        told = {
            "placements": [row.placement for row in rows],
            "threshold": parameters.threshold,
            "overlap": parameters.overlap,
        }
        arrays = [row.array for row in rows]
        return batch_of_arrays(arrays, signature, single=single, parameters=told)

    def batch_of(self, images: Iterable[Image], signature: Signature) -> Batch:
        """See `pipelines.SeesImages`."""
        return batch_of_images(images, signature)

    def places(
        self,
        outputs: Tensors,
        batch: Batch,
        signature: Signature,
        *,
        threshold: float | None = None,
        overlap: float | None = None,
    ) -> list[Places]:
        """See `pipelines.FindsPlaces`; boxes of a class overlap by at most `overlap`."""
        spec, labels = signature.detection, signature.labels
        assert spec is not None
        assert labels is not None
        least = spec.threshold if threshold is None else threshold
        nms = spec.nms if overlap is None else overlap
        assert least is not None
        assert nms is not None
        parts = heads.split(outputs, signature)
        told = []
        for row, place in enumerate(batch.parameters["placements"]):
            found = heads.find(parts, row, signature, self._anchors, least, nms)
            boxes, numbers = np.round(place.back(found.boxes), 2), found.classes
            real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            real &= (numbers >= 0) & (numbers < len(labels))
            named = tuple(labels[number] for number in numbers[real].tolist())
            points = None if found.points is None else place.back_points(found.points[real])
            corners = None
            if found.corners is not None:
                edges = (place.width, place.height)
                corners = np.clip(place.back_points(found.corners[real]), 0, edges).round(2)
            told.append(
                Places(
                    boxes=boxes[real],
                    scores=found.scores[real],
                    labels=named,
                    corners=corners,
                    points=points,
                )
            )
        return told

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Boxes: a list for one image, a list of lists for several."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        given = batch.parameters
        found = [
            detections(each)
            for each in self.places(
                outputs,
                batch,
                signature,
                threshold=given["threshold"],
                overlap=given["overlap"],
            )
        ]
        return Answer(body=msgspec.json.encode(found[0] if batch.single else found))

    def check_parts(self, parts: Mapping[str, Part]) -> Signature:
        """See `pipelines.PipelineTask`."""
        return pipeline.check_parts(parts)

    def converse(
        self,
        payload: Payload,
        parts: Mapping[str, BoundPart],
        signature: Signature,
        limits: Limits,
    ) -> Conversation:
        """See `pipelines.PipelineTask`."""
        return pipeline.converse(payload, parts, signature, limits)

    def drawn(self) -> Payload:
        """See `pipelines.PipelineTask`; all boxes, so that the classifier is asked too."""
        return Payload(body=drawn_image(), parameters={"threshold": 0.0})

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
                    _named(each),
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


def _named(found: Mapping[str, Any]) -> str:
    """The label of a result; behind it, what a pipeline's detector took it for."""
    label = str(found["label"])
    return f"{label} ({found['detected']['label']})" if "detected" in found else label


def detections(places: Places) -> list[Detection]:
    """What was found in an image, as an answer has it."""
    scores = places.scores.round(6).tolist()
    count = len(places.labels)
    corners = [None] * count if places.corners is None else places.corners.tolist()
    return [
        Detection(label, score, Box(*box), around)
        for label, score, box, around in zip(
            places.labels, scores, places.boxes.tolist(), corners, strict=True
        )
    ]


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


TASK: Final[Task] = ObjectDetection()
