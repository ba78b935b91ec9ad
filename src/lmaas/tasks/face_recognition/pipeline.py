"""Faces that one model finds and another makes vectors of: the pipelines of `face-recognition`.

Where the detector gives points, each face is laid by them as the embedder has learned faces; else a
square about its box is cut out.
"""

from collections.abc import Generator, Iterator, Mapping
from typing import Final, cast

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.face_types import Face, FaceBox
from lmaas.tasks.base import Tensors
from lmaas.tasks.face_recognition import alignment
from lmaas.tasks.face_recognition.parameters import MOST_IMAGES, read_parameters
from lmaas.tasks.face_recognition.spec import DETECTOR, EMBEDDER, Parameters
from lmaas.tasks.images import read_images
from lmaas.tasks.pipelines import (
    CROPS_AT_ONCE,
    MOST_CROPS,
    BoundPart,
    Conversation,
    FindsPlaces,
    MakesVectors,
    Places,
    Run,
)
from lmaas.types import Answer, Part, Payload, Signature

FACE_LABEL: Final = "face"
DIGITS: Final = 2


def check_parts(parts: Mapping[str, Part]) -> Signature:
    """The detector's boxes with the embedder's vectors. A detector of several classes needs one
    called face.
    """
    detector, embedder = parts[DETECTOR].signature, parts[EMBEDDER].signature
    labels = detector.labels or ()
    if len(labels) > 1 and FACE_LABEL not in labels:
        raise InvalidInput(
            f"The detector finds {', '.join(labels[:20])}, and no faces.",
            hint=f"It needs one class, or one called {FACE_LABEL}.",
            param=f"parts.{DETECTOR}",
        )
    points = detector.detection.points if detector.detection is not None else ()
    known = {*alignment.FIVE, alignment.MOUTH}
    if points and len(known & set(points)) < alignment.LEAST_POINTS:
        raise InvalidInput(
            f"The detector's points are {', '.join(points)}; a face is laid by at least two of "
            f"{', '.join(sorted(known))}.",
            param=f"parts.{DETECTOR}",
        )
    return Signature(
        inputs=(),
        outputs=(),
        batch=False,
        detection=detector.detection,
        face=embedder.face,
    )


def converse(
    payload: Payload, parts: Mapping[str, BoundPart], signature: Signature, limits: Limits
) -> Conversation:
    """See `pipelines.PipelineTask`."""
    call = read_images(payload, limits, most=MOST_IMAGES)
    parameters = read_parameters(call.parameters)
    detector = parts[DETECTOR]
    finder = cast(FindsPlaces, detector.task)
    batch = finder.batch_of(call.images, detector.signature)
    outputs = yield Run(part=DETECTOR, batch=batch)
    found = finder.places(outputs, batch, detector.signature, threshold=parameters.threshold)
    answers = []
    for image, places in zip(call.images, found, strict=True):
        chosen = _chosen(places, detector.signature.labels or (), parameters)
        answers.append((yield from _faces(image, places, chosen, parts)))
    return Answer(body=msgspec.json.encode(answers[0] if call.single else answers))


def _chosen(places: Places, labels: tuple[str, ...], parameters: Parameters) -> list[int]:
    """Which places are looked at: faces, the surest of them, or the largest where a call limits
    them.
    """
    wanted = FACE_LABEL if len(labels) > 1 else None
    faces = [row for row, label in enumerate(places.labels) if wanted in (None, label)]
    faces = faces[:MOST_CROPS]
    if parameters.limit is None or len(faces) <= parameters.limit:
        return faces
    sides = places.boxes[:, 2:] - places.boxes[:, :2]
    largest = sorted(faces, key=lambda row: -float(sides[row].prod()))[: parameters.limit]
    return sorted(largest)


def _faces(
    image: Image, places: Places, chosen: list[int], parts: Mapping[str, BoundPart]
) -> Generator[Run, Tensors, list[Face]]:
    embedder = parts[EMBEDDER]
    maker, told = cast(MakesVectors, embedder.task), []
    spec = parts[DETECTOR].signature.detection
    names = spec.points if spec is not None else ()

    def crops(rows: list[int]) -> Iterator[Image]:
        face, size = embedder.signature.face, embedder.signature.image
        assert face is not None
        assert size is not None
        for row in rows:
            if places.points is not None:
                try:
                    yield alignment.aligned(image, names, places.points[row], face, size)
                    continue
                except ValueError:
                    pass  # points in one place say no more than the box
            yield alignment.cropped(image, places.boxes[row].tolist(), face)

    for start in range(0, len(chosen), CROPS_AT_ONCE):
        some = chosen[start : start + CROPS_AT_ONCE]
        batch = maker.batch_of(crops(some), embedder.signature)
        outputs = yield Run(part=EMBEDDER, batch=batch)
        for row, vector in zip(some, maker.vectors(outputs, embedder.signature), strict=True):
            told.append(
                Face(
                    box=FaceBox(*places.boxes[row].tolist()),
                    score=round(float(places.scores[row]), 6),
                    landmarks=_landmarks(names, places, row),
                    embedding=tuple(vector.tolist()),
                )
            )
    return told


def _landmarks(
    names: tuple[str, ...], places: Places, row: int
) -> tuple[tuple[float, float], ...] | None:
    if places.points is None or not {"right_eye", "left_eye", "nose"} <= set(names):
        return None
    if alignment.MOUTH not in names and not {"mouth_right", "mouth_left"} <= set(names):
        return None
    five = np.round(alignment.five_of(names, places.points[row]), DIGITS)
    return tuple((float(x), float(y)) for x, y in five)
