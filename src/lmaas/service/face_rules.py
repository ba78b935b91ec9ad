"""What is asked of an image of faces, and what may be said of those that a model found in it.

Knows no rows and runs nothing.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from lmaas.errors import InvalidInput, NoFace, SeveralFaces
from lmaas.face_types import Face, FaceBox
from lmaas.registry.gallery_rows import Row, as_unit
from lmaas.types import JSON, FaceSpec, ModelVersion, Payload

TASK: Final = "face-recognition"
USUAL_RATE: Final = 0.001
LEAST_SIDE: Final = 16
"""A face with fewer pixels on a side is none: nobody is told by so few."""


class Picture(NamedTuple):
    """An image as it came: a file's bytes, or base64."""

    content: bytes | str


class Seen(NamedTuple):
    """The faces of an image, the largest first, and the version that found them."""

    faces: list[Face]
    version: ModelVersion
    headers: list[tuple[bytes, bytes]]
    duration_ms: float


class Asked(NamedTuple):
    """How an image is looked at: the least score of a face, the most faces, the largest; and what
    the call is called in the ledger."""

    request_id: str
    endpoint: str = "faces"
    threshold: float | None = None
    limit: int | None = None


def face_of(version: ModelVersion) -> FaceSpec:
    """What a version's vectors mean. Raises InvalidInput for a model of another task."""
    face = version.manifest.signature.face
    if version.manifest.task != TASK or face is None:
        raise InvalidInput(
            f"{version.ref} is a model for {version.manifest.task}, not for {TASK}.", param="model"
        )
    return face


def only(faces: Sequence[Face]) -> Face:
    """The one face of an image. Raises NoFace, SeveralFaces."""
    if len(some(faces)) > 1:
        raise SeveralFaces(
            f"The image shows {len(faces)} faces; exactly one was expected.",
            hint="Cut one out, or raise the threshold of detection.",
        )
    return faces[0]


def some(faces: Sequence[Face]) -> Sequence[Face]:
    """The faces, of which there is one at least. Raises NoFace."""
    if not faces:
        raise NoFace(
            f"No face was found in the image, or none of {LEAST_SIDE} x {LEAST_SIDE} pixels.",
            hint="Send a larger or clearer image, or lower the threshold of detection.",
        )
    return faces


def reaches(similarity: float, row: Row) -> bool:
    """Whether a similarity is one person's; without a threshold, nobody can say so."""
    return row.threshold is not None and similarity >= row.threshold


def calibrated(face: FaceSpec, rate: float | None) -> tuple[float, float]:
    """A rate that a model is calibrated at, and its threshold; without a name the usual one."""
    known = {each.false_accept_rate: each.threshold for each in face.rates}
    if rate is None:
        rate = min((each for each in known if each >= USUAL_RATE), default=max(known))
    if rate not in known:
        raise InvalidInput(
            f"The model is calibrated at the false-accept rates "
            f"{', '.join(f'{each:g}' for each in sorted(known))}; received {rate:g}.",
            param="false_accept_rate",
        )
    return rate, known[rate]


def payload_of(picture: Picture, asked: Asked) -> Payload:
    """The request to the model. Raises InvalidInput for what is no base64."""
    parameters: dict[str, float] = {}
    if asked.threshold is not None:
        parameters["threshold"] = asked.threshold
    if isinstance(picture.content, bytes):
        return Payload(body=picture.content, parameters=parameters)
    call = {"inputs": _plain(picture.content), "parameters": parameters}
    return Payload(media_type=JSON, body=msgspec.json.encode(call))


def _plain(text: str) -> str:
    """Base64 without a data URL's head. Raises InvalidInput for what is none."""
    plain = text.partition(",")[2] if text.startswith("data:") else text
    try:
        base64.b64decode(plain[:64].encode("ascii"), validate=len(plain) % 4 == 0)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidInput("The image is no base64.", param="file") from None
    return plain


def vectors_of(faces: Sequence[Face], row: Row) -> np.ndarray:
    """The vectors (n, dimensions) of faces. Raises InvalidInput for what is no direction."""
    return np.stack([as_unit(np.asarray(face.embedding), row.dimensions) for face in faces])


def _sides(box: FaceBox) -> tuple[float, float]:
    return box.xmax - box.xmin, box.ymax - box.ymin


def large_enough(face: Face) -> bool:
    """Whether somebody can be told by so few pixels."""
    return min(_sides(face.box)) >= LEAST_SIDE


def area(face: Face) -> float:
    """The area of a face in pixels."""
    wide, high = _sides(face.box)
    return wide * high
