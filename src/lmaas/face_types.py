"""Galleries of faces as callers see them. Knows no transport, no storage and no model."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from lmaas.types import Record

MAX_SUBJECT_CHARS: Final = 200
MAX_PAGE: Final = 1000
Rate = Annotated[float, Meta(gt=0, lt=1)]
Cosine = Annotated[float, Meta(ge=-1, le=1)]


class Gallery(Record, frozen=True, kw_only=True):
    """Known faces of one tenant, as vectors of `dimensions` numbers by the version `model`.

    Two faces whose similarity reaches `threshold` are taken for one person. Of pairs of strangers,
    a share of `false_accept_rate` does, as measured when the model was calibrated; None: nobody has
    measured it.
    """

    name: str
    model: str
    dimensions: int
    threshold: float | None
    false_accept_rate: float | None
    subjects: int = 0
    photos: int = 0
    created_at: float


class GalleryBody(Record, frozen=True, kw_only=True):
    """A gallery that is to be made. `model`: any reference to a face recognition model; its version
    now is the gallery's.

    `false_accept_rate` is one that the model is calibrated at. `threshold` is for models that are
    not calibrated, and for who knows better.
    """

    name: str
    model: str
    false_accept_rate: Rate | None = None
    threshold: Cosine | None = None


class Subject(Record, frozen=True, kw_only=True):
    """Somebody in a gallery. `tag` stands for the name in the audit, and says nothing else."""

    name: str
    tag: str
    photos: int
    created_at: float


class Photo(Record, frozen=True, kw_only=True):
    """One face of a subject; only its vector is kept."""

    id: str
    subject: str
    created_at: float


class PhotoPage(Record, frozen=True, kw_only=True):
    """Photos from the oldest on; there are `total`."""

    photos: tuple[Photo, ...]
    total: int


class Removed(Record, frozen=True, kw_only=True):
    """How much of a gallery is gone: its vectors from memory, tables and files."""

    subjects: int = 0
    photos: int = 0


class FaceBox(msgspec.Struct, frozen=True):
    """Corners in pixels of the upright image."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Face(Record, frozen=True, kw_only=True):
    """A face in an image, as a model for face recognition answers it.

    `score`: how sure it is one. `landmarks` are right eye, left eye, nose, right and left corner of
    the mouth, as the viewer sees them from left to right, where the model has points. `embedding`
    is of length 1.
    """

    box: FaceBox
    score: float
    landmarks: tuple[tuple[float, float], ...] | None = None
    embedding: tuple[float, ...] = ()


class Match(Record, frozen=True, kw_only=True):
    """A subject, and the cosine of the angle to the nearest of its photos; `same`: whether that
    reaches the threshold."""

    subject: str
    similarity: float
    same: bool


class Identified(Record, frozen=True, kw_only=True):
    """A face and the likeliest subjects, best first; with no `same` among them it is a stranger."""

    box: FaceBox
    score: float
    landmarks: tuple[tuple[float, float], ...] | None = None
    matches: tuple[Match, ...]


class Identification(Record, frozen=True, kw_only=True):
    """The faces of an image, the largest first, and what `same` stands for (see `Gallery`)."""

    gallery: str
    model: str
    threshold: float | None
    false_accept_rate: float | None
    faces: tuple[Identified, ...]


class Verification(Record, frozen=True, kw_only=True):
    """Whether a face is a subject's. `similarity` is that to the nearest of its photos.

    `false_accept_rate`: so often strangers reach `threshold`.
    """

    gallery: str
    model: str
    subject: str
    similarity: float
    same: bool
    threshold: float | None
    false_accept_rate: float | None
    box: FaceBox


class AuditLine(Record, frozen=True, kw_only=True):
    """One change of a gallery: which key made it, and when (Unix seconds).

    `object` is the gallery, `detail` the subject's tag, or how many there were.
    """

    id: int
    at: float
    key_id: str
    action: str
    object: str
    detail: str
