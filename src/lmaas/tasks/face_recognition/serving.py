"""The task `face-recognition`: images in; faces with a vector each out.

A model of its own takes each image for one face, cut out as those that it has learned. As a part of
a pipeline it is given what a detector found (`face_recognition.pipeline`). Answers are lists of
`face_types.Face` for each image: `[{"box", "score", "landmarks", "embedding"}]`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs import tensor
from lmaas.codecs.drawing import drawn_image
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.face_types import Face, FaceBox
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors
from lmaas.tasks.face_recognition import pipeline, verification
from lmaas.tasks.face_recognition.parameters import MOST_IMAGES, read_parameters
from lmaas.tasks.face_recognition.spec import SPEC
from lmaas.tasks.images import (
    batch_of_images,
    check_count,
    check_image,
    files_of,
    infer_image,
    read_images,
)
from lmaas.tasks.pipelines import BoundPart, Conversation
from lmaas.types import TENSORS, Answer, FaceSpec, Part, Payload, Signature

SIDES: Final = FaceBox.__struct_fields__


class FaceRecognition:
    """Faces in, vectors out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """A model needs no files beside its own."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """Complete image and vectors; refuse a model that gives no vector for each image."""
        if len(signature.inputs) != 1 or len(signature.outputs) != 1:
            raise InvalidInput(
                "A model for face recognition has one input and one output; received "
                f"{len(signature.inputs)} and {len(signature.outputs)}."
            )
        entry, vector = signature.inputs[0], signature.outputs[0]
        if len(vector.shape) != 2 or vector.shape[1] < 2 or not vector.dtype.startswith("float"):
            raise InvalidInput(
                "A model for face recognition gives a vector for each image, (N, dimensions) of "
                f"real numbers; received {list(vector.shape)} of {vector.dtype}."
            )
        image = signature.image or infer_image(entry.shape)
        check_image(image, entry.shape, entry.dtype)
        face = signature.face or FaceSpec()
        if face.dimensions not in (0, vector.shape[1]):
            raise InvalidInput(
                f"The vectors have {vector.shape[1]} numbers; face.dimensions says "
                f"{face.dimensions}.",
                param="face",
            )
        _check_face(face)
        whole = msgspec.structs.replace(face, dimensions=vector.shape[1])
        return msgspec.structs.replace(signature, image=image, face=whole, labels=None)

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Images to the model's input, one row for each."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        call = read_images(payload, limits, most=MOST_IMAGES)
        parameters = read_parameters(call.parameters)
        assert signature.image is not None
        check_count(len(call.images), signature.image, limits)
        batch = self.batch_of(call.images, signature)
        batch.single = call.single
        batch.parameters |= {
            "sizes": [each.size for each in call.images],
            "threshold": parameters.threshold,
        }
        return batch

    def batch_of(self, images: Iterable[Image], signature: Signature) -> Batch:
        """See `pipelines.SeesImages`."""
        return batch_of_images(images, signature)

    def vectors(self, outputs: Tensors, signature: Signature) -> np.ndarray:
        """See `pipelines.MakesVectors`. Raises LMaaSError for vectors that are none."""
        found = np.asarray(outputs[signature.outputs[0].name], np.float32)
        units = verification.as_units(found)
        if not np.isfinite(units).all():
            raise LMaaSError("The model's vectors hold NaN or infinity for this input.")
        return units

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """A face for each image: all of it."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        rows = zip(batch.parameters["sizes"], self.vectors(outputs, signature), strict=True)
        told = [
            [Face(box=FaceBox(0, 0, *size), score=1.0, embedding=tuple(vector.tolist()))]
            for size, vector in rows
        ]
        return Answer(body=msgspec.json.encode(told[0] if batch.single else told))

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
        """See `pipelines.PipelineTask`; all boxes, so that the embedder is asked too."""
        return Payload(body=drawn_image(), parameters={"threshold": 0.0})

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Vectors at length 1: their angles are what counts."""
        name = signature.outputs[0].name
        return {name: verification.as_units(np.asarray(outputs[name], np.float32))}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """The task's metrics of vectors against `targets` (N,), the number of each one's person."""
        return verification.measure(self.vectors(outputs, signature), targets)

    def shown(self, result: Any) -> Shown:
        """A line for each face, and one for an image without any."""
        several = bool(result) and isinstance(result[0], list)
        rows: list[tuple[str, ...]] = []
        for index, faces in enumerate(result if several else [result]):
            which = (str(index),) if several else ()
            for face in faces:
                sides = tuple(f"{face['box'][side]:.1f}" for side in SIDES)
                length = f"{len(face['embedding'])} numbers"
                rows.append((*which, f"{face['score']:.4f}", *sides, length))
            if not faces:
                rows.append((*which, "no face found", *[""] * (len(SIDES) + 1)))
        columns = ("score", *SIDES, "embedding")
        return Shown((*(["input"] if several else []), *columns), rows)

    def marks(self, result: Any) -> list[Mark]:
        """A box with its score for each face."""
        return [
            Mark(tuple(face["box"][side] for side in SIDES), f"{face['score']:.2f}", "face")
            for face in result
        ]

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The image files that the rows name, by paths from `folder`, as base64."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """All faces of each image, and how many there are."""
        return [{"faces": faces, "count": len(faces)} for faces in result]


def _check_face(face: FaceSpec) -> None:
    rates = [each.false_accept_rate for each in face.rates]
    numbers = [*np.ravel(face.points).tolist(), *(each.threshold for each in face.rates)]
    if not all(map(math.isfinite, numbers)) or not all(0 < rate < 1 for rate in rates):
        raise InvalidInput("face has numbers that are none, or rates that are no shares.")
    if len(set(rates)) != len(rates):
        raise InvalidInput("face.rates names a rate twice.", param="face")


TASK: Final[Task] = FaceRecognition()
