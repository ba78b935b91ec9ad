"""Rows of galleries: what one statement asks or changes, within a transaction of its caller.

Knows no audit and no files.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from lmaas.errors import InvalidInput, NotFound
from lmaas.face_types import MAX_SUBJECT_CHARS, Gallery, Removed
from lmaas.registry.names import show
from lmaas.registry.schema import galleries, gallery_photos, gallery_subjects

TAIL_BYTES: Final = 24
"""So much of a vector's end tells whether a file still has it."""
LEAST_LENGTH: Final = 1e-6
ASKED_AT_ONCE: Final = 500


class Row(NamedTuple):
    """A gallery as its searches know it."""

    id: str
    name: str
    model: str
    dimensions: int
    threshold: float | None
    false_accept_rate: float | None
    last_photo: int
    removals: int


class Vectors(NamedTuple):
    """Photos by number: their ids and subjects, and their vectors (n, dimensions)."""

    numbers: list[int]
    ids: list[str]
    subjects: list[str]
    vectors: np.ndarray


_ROW: Final = tuple(galleries.c[name] for name in Row._fields)


def subject_id(gallery: str, subject: str) -> str:
    """The key of a subject: a digest, so that indexes hold no name."""
    return hashlib.sha256(f"{gallery}\0{subject}".encode()).hexdigest()


def check_subject(subject: str) -> str:
    """`subject` if somebody may be called so. Raises InvalidInput with the rule."""
    fine = 1 <= len(subject) <= MAX_SUBJECT_CHARS and subject == subject.strip()
    if not fine or not subject.isprintable() or "/" in subject:
        raise InvalidInput(
            f"{show(subject)} cannot be a subject.",
            hint=f"Use 1 to {MAX_SUBJECT_CHARS} characters without '/', control characters, and "
            "blanks at the ends.",
            param="subject",
        )
    return subject


def as_unit(vector: np.ndarray, dimensions: int) -> np.ndarray:
    """A vector (dimensions,) at length 1, float32. Raises InvalidInput for what is no direction."""
    given = np.asarray(vector, np.float64)
    if given.shape != (dimensions,):
        raise InvalidInput(
            f"The gallery has vectors of {dimensions} numbers; received {list(given.shape)}.",
            param="embedding",
        )
    length = float(np.linalg.norm(given)) if np.isfinite(given).all() else 0.0
    if not LEAST_LENGTH < length < np.inf:
        raise InvalidInput(
            "The vector is no direction: it has length 0, or numbers that are none.",
            param="embedding",
        )
    return (given / length).astype(np.float32)


def new_photo_id() -> str:
    """A random UUID (RFC 9562, version 4), as stock clients expect it."""
    text = secrets.token_hex(16)
    variant = "89ab"[int(text[16], 16) % 4]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def gallery_row(connection: sa.Connection, tenant: str, name: str, wanted: sa.Select[Any]) -> Any:
    """What `wanted` selects of a gallery. Raises NotFound."""
    row = connection.execute(
        wanted.where(galleries.c.tenant == tenant, galleries.c.name == name)
    ).first()
    if row is None:
        raise NotFound(
            f"There is no gallery {show(name)}.",
            hint="`lmaas faces list` shows them.",
            param="gallery",
        )
    return row


def row_of(connection: sa.Connection, tenant: str, name: str) -> Row:
    """What a search needs of a gallery. Raises NotFound."""
    return Row(*gallery_row(connection, tenant, name, sa.select(*_ROW)))


def gallery_of(connection: sa.Connection, row: Any) -> Gallery:
    """A row of `galleries` as callers see it, with what is counted."""

    def count(table: sa.Table) -> int:
        asked = sa.select(sa.func.count()).where(table.c.gallery == row.id)
        return int(connection.scalar(asked) or 0)

    told = {name: getattr(row, name) for name in Gallery.__struct_fields__ if hasattr(row, name)}
    return msgspec.convert(
        told | {"subjects": count(gallery_subjects), "photos": count(gallery_photos)}, Gallery
    )


def tag_of(connection: sa.Connection, subject: str) -> str:
    """The tag of the subject with this id. Raises NotFound."""
    tag = connection.scalar(
        sa.select(gallery_subjects.c.tag).where(gallery_subjects.c.id == subject)
    )
    if tag is None:
        raise NotFound("There is no such subject.", param="subject")
    return str(tag)


def photo_of(connection: sa.Connection, row: Row, photo: str) -> Any:
    """A photo of a gallery with its vector, and its subject's name and tag. Raises NotFound."""
    own = gallery_photos.c
    kept = connection.execute(
        sa.select(
            own.id, own.created_at, own.vector, gallery_subjects.c.name, gallery_subjects.c.tag
        )
        .join(gallery_subjects, gallery_subjects.c.id == own.subject)
        .where(own.gallery == row.id, own.id == photo)
    ).first()
    if kept is None:
        raise NotFound(f"There is no photo {show(photo)}.", param="image_id")
    return kept


def remove(connection: sa.Connection, subjects: Sequence[str]) -> tuple[list[bytes], Removed]:
    """Delete subjects with their photos; what no file may have from now on."""
    remains, photos = [subject.encode() for subject in subjects], 0
    for start in range(0, len(subjects), ASKED_AT_ONCE):
        part = subjects[start : start + ASKED_AT_ONCE]
        own = gallery_photos.c
        which = own.subject.in_(part)
        for row in connection.execute(sa.select(own.id, own.vector).where(which)):
            remains += [row.id.encode(), tail(row.vector)]
            photos += 1
        connection.execute(gallery_photos.delete().where(which))
        connection.execute(gallery_subjects.delete().where(gallery_subjects.c.id.in_(part)))
    return remains, Removed(subjects=len(subjects), photos=photos)


def remove_photos(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Delete photos by their ids."""
    for start in range(0, len(ids), ASKED_AT_ONCE):
        part = gallery_photos.c.id.in_(ids[start : start + ASKED_AT_ONCE])
        connection.execute(gallery_photos.delete().where(part))


def count_removal(connection: sa.Connection, row: Row) -> None:
    """Tell searches that something of a gallery is gone, or called otherwise."""
    own = galleries.c
    connection.execute(galleries.update().where(own.id == row.id).values(removals=own.removals + 1))


def tail(vector: bytes) -> bytes:
    """What tells whether a file still has a vector."""
    return vector[-TAIL_BYTES:]
