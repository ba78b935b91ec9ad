"""Galleries of faces: subjects and the vectors of their photos, durable, each its tenant's.

To every other tenant a gallery does not exist. What is deleted leaves tables and files. Each
change is a line of the audit, in the same transaction. Synchronous and thread-safe.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa

from lmaas.errors import Conflict, InsufficientQuota, InvalidInput, NotFound
from lmaas.face_types import (
    MAX_PAGE,
    AuditLine,
    Gallery,
    Photo,
    PhotoPage,
    Removed,
    Subject,
)
from lmaas.registry import audit
from lmaas.registry.gallery_rows import (
    ASKED_AT_ONCE,
    Row,
    Vectors,
    as_unit,
    check_subject,
    count_removal,
    gallery_of,
    gallery_row,
    new_photo_id,
    photo_of,
    remove,
    remove_photos,
    row_of,
    subject_id,
    tag_of,
    tail,
)
from lmaas.registry.names import check_name
from lmaas.registry.schema import galleries, gallery_photos, gallery_subjects
from lmaas.registry.storage import Storage, next_number

MOST_GALLERIES: Final = 1000
"""Of one tenant."""


class Galleries:
    """The galleries of one home. `most_photos` are in one of them at most."""

    def __init__(self, database: Storage, most_photos: int) -> None:
        self._database = database
        self._most_photos = most_photos

    # Galleries

    def of_tenant(self, tenant: str) -> list[Gallery]:
        """All galleries of a tenant, by name."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(galleries).where(galleries.c.tenant == tenant).order_by(galleries.c.name)
            ).all()
            return [gallery_of(connection, row) for row in rows]

    def get(self, tenant: str, name: str) -> Gallery:
        """One gallery. Raises NotFound."""
        with self._database.read() as connection:
            return gallery_of(
                connection, gallery_row(connection, tenant, name, sa.select(galleries))
            )

    def row(self, tenant: str, name: str) -> Row:
        """What a search needs of a gallery. Raises NotFound."""
        with self._database.read() as connection:
            return row_of(connection, tenant, name)

    def create(
        self, tenant: str, key_id: str, gallery: Gallery, *, exist_ok: bool = False
    ) -> Gallery:
        """A new gallery without subjects. Raises Conflict for a name that is taken, unless the
        older one will do.
        """
        check_name(gallery.name, what="gallery name")
        with self._database.write() as connection:
            own = galleries.c.tenant == tenant
            before = connection.execute(
                sa.select(galleries).where(own, galleries.c.name == gallery.name)
            ).first()
            if before is not None:
                if exist_ok:
                    return gallery_of(connection, before)
                raise Conflict(
                    f"There is a gallery {gallery.name} already.",
                    hint="Delete it first, or take another name.",
                    param="name",
                )
            count = connection.scalar(sa.select(sa.func.count()).where(own)) or 0
            if count >= MOST_GALLERIES:
                raise InsufficientQuota(f"A tenant has at most {MOST_GALLERIES} galleries.")
            connection.execute(
                galleries.insert().values(
                    id=secrets.token_hex(12),
                    tenant=tenant,
                    name=gallery.name,
                    model=gallery.model,
                    dimensions=gallery.dimensions,
                    threshold=gallery.threshold,
                    false_accept_rate=gallery.false_accept_rate,
                    last_photo=0,
                    removals=0,
                    created_at=gallery.created_at,
                )
            )
            audit.note(connection, tenant, key_id, "gallery created", gallery.name, gallery.model)
        return gallery

    def delete(self, tenant: str, key_id: str, name: str) -> Removed:
        """A gallery with all that is in it. Raises NotFound."""
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            own = sa.select(gallery_subjects.c.id).where(gallery_subjects.c.gallery == row.id)
            remains, gone = remove(connection, list(connection.scalars(own)))
            connection.execute(galleries.delete().where(galleries.c.id == row.id))
            detail = f"{gone.subjects} subjects"
            audit.note(connection, tenant, key_id, "gallery deleted", name, detail)
        self._database.scrub([row.id.encode(), *remains])
        return gone

    # Subjects

    def subjects(
        self, tenant: str, name: str, *, after: str = "", limit: int = MAX_PAGE
    ) -> list[Subject]:
        """Subjects by name, from the first one after `after` on. Raises NotFound."""
        with self._database.read() as connection:
            row = row_of(connection, tenant, name)
            own = gallery_subjects.c
            rows = connection.execute(
                sa.select(own.name, own.tag, own.created_at, sa.func.count(gallery_photos.c.number))
                .outerjoin(gallery_photos, gallery_photos.c.subject == own.id)
                .where(own.gallery == row.id, own.name > after)
                .group_by(own.id)
                .order_by(own.name)
                .limit(limit)
            ).all()
        return [Subject(name=n, tag=t, created_at=at, photos=count) for n, t, at, count in rows]

    def add_subject(self, tenant: str, key_id: str, name: str, subject: str) -> None:
        """A subject without photos; nothing changes where it is there. Raises NotFound."""
        check_subject(subject)
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            self._subject(connection, tenant, key_id, row, subject)

    def rename(self, tenant: str, key_id: str, name: str, subject: str, new: str) -> None:
        """Another name for a subject; where that is somebody, the photos become theirs.

        Raises NotFound.
        """
        check_subject(new)
        if subject == new:
            return
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            old_id = subject_id(row.id, subject)
            tag = tag_of(connection, old_id)
            new_id, _ = self._subject(connection, tenant, key_id, row, new)
            connection.execute(
                gallery_photos.update()
                .where(gallery_photos.c.subject == old_id)
                .values(subject=new_id)
            )
            connection.execute(gallery_subjects.delete().where(gallery_subjects.c.id == old_id))
            count_removal(connection, row)
            audit.note(connection, tenant, key_id, "subject renamed", name, tag)
        self._database.scrub([old_id.encode()])

    def delete_subjects(
        self, tenant: str, key_id: str, name: str, subjects: Sequence[str] | None = None
    ) -> Removed:
        """Subjects with all their vectors; None: all of the gallery. Raises NotFound."""
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            if subjects is None:
                own = sa.select(gallery_subjects.c.id).where(gallery_subjects.c.gallery == row.id)
                ids = list(connection.scalars(own))
                detail = f"{len(ids)} subjects"
            else:
                ids = [subject_id(row.id, subject) for subject in subjects]
                detail = ", ".join(tag_of(connection, each) for each in ids)
            remains, gone = remove(connection, ids)
            count_removal(connection, row)
            audit.note(connection, tenant, key_id, "subjects deleted", name, detail)
        self._database.scrub(remains)
        return gone

    # Photos

    def enrol(
        self, tenant: str, key_id: str, name: str, subject: str, vector: np.ndarray, model: str
    ) -> Photo:
        """Keep the vector (dimensions,) of a face of `subject`, who is made where it is new.

        `model` is the version that gave it. Raises NotFound, InsufficientQuota, and InvalidInput
        for a vector of another model and for one that is no direction.
        """
        check_subject(subject)
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            if model != row.model:
                raise InvalidInput(
                    f"The gallery {name} has vectors of {row.model}; received one of {model}. "
                    "Vectors of two models do not compare.",
                    hint="Make another gallery for the other model, and enrol its photos anew.",
                    param="model",
                )
            unit = as_unit(vector, row.dimensions)
            count = sa.select(sa.func.count()).where(gallery_photos.c.gallery == row.id)
            if (connection.scalar(count) or 0) >= self._most_photos:
                raise InsufficientQuota(
                    f"A gallery has at most {self._most_photos} photos.",
                    hint="Delete some, or ask the operator (max_gallery_photos).",
                )
            number = next_number(connection, galleries.c.last_photo, galleries.c.id == row.id)
            own, tag = self._subject(connection, tenant, key_id, row, subject)
            photo = Photo(id=new_photo_id(), subject=subject, created_at=time.time())
            connection.execute(
                gallery_photos.insert().values(
                    gallery=row.id,
                    number=number,
                    id=photo.id,
                    subject=own,
                    created_at=photo.created_at,
                    vector=unit.astype("<f4").tobytes(),
                )
            )
            audit.note(connection, tenant, key_id, "photo enrolled", name, tag)
        return photo

    def photos(
        self, tenant: str, name: str, subject: str | None, *, offset: int = 0, limit: int = 20
    ) -> PhotoPage:
        """Photos, of one subject or of all. Raises NotFound for the gallery; a subject that is not
        there has none.
        """
        with self._database.read() as connection:
            row = row_of(connection, tenant, name)
            own = gallery_photos.c
            which = [own.gallery == row.id]
            if subject is not None:
                which.append(own.subject == subject_id(row.id, subject))
            total = connection.scalar(sa.select(sa.func.count()).where(*which)) or 0
            rows = connection.execute(
                sa.select(own.id, gallery_subjects.c.name, own.created_at)
                .join(gallery_subjects, gallery_subjects.c.id == own.subject)
                .where(*which)
                .order_by(own.number)
                .offset(offset)
                .limit(limit)
            ).all()
        photos = tuple(Photo(id=i, subject=s, created_at=at) for i, s, at in rows)
        return PhotoPage(photos=photos, total=total)

    def vector(self, tenant: str, name: str, photo: str) -> tuple[Photo, np.ndarray]:
        """A photo and its vector. Raises NotFound."""
        with self._database.read() as connection:
            row = row_of(connection, tenant, name)
            found = photo_of(connection, row, photo)
        kept = Photo(id=found.id, subject=found.name, created_at=found.created_at)
        return kept, np.frombuffer(found.vector, "<f4")

    def delete_photos(
        self, tenant: str, key_id: str, name: str, photos: Sequence[str]
    ) -> list[Photo]:
        """Photos by their ids; the subjects stay. Raises NotFound, with nothing deleted."""
        if len(photos) > MAX_PAGE:
            raise InvalidInput(f"At most {MAX_PAGE} photos are deleted at once.", param="photos")
        with self._database.write() as connection:
            row = row_of(connection, tenant, name)
            found = [photo_of(connection, row, photo) for photo in dict.fromkeys(photos)]
            remove_photos(connection, [each.id for each in found])
            count_removal(connection, row)
            detail = ", ".join(sorted({each.tag for each in found}))
            audit.note(connection, tenant, key_id, "photos deleted", name, detail)
        remains = [part for each in found for part in (each.id.encode(), tail(each.vector))]
        self._database.scrub(remains)
        return [Photo(id=e.id, subject=e.name, created_at=e.created_at) for e in found]

    # For searches

    def states(self, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """`last_photo` and `removals` of those galleries that are still there, by id."""
        own, wanted = galleries.c, list(ids)
        found: dict[str, tuple[int, int]] = {}
        with self._database.read() as connection:
            for start in range(0, len(wanted), ASKED_AT_ONCE):
                part = own.id.in_(wanted[start : start + ASKED_AT_ONCE])
                rows = connection.execute(
                    sa.select(own.id, own.last_photo, own.removals).where(part)
                )
                found |= {row.id: (row.last_photo, row.removals) for row in rows}
        return found

    def load(self, gallery: str, dimensions: int, after: int) -> tuple[Vectors, int, int]:
        """The photos of a gallery with numbers above `after`, and its `last_photo` and `removals`
        at that moment. Raises NotFound where it is gone.
        """
        own = gallery_photos.c
        with self._database.read() as connection:
            state = connection.execute(
                sa.select(galleries.c.last_photo, galleries.c.removals).where(
                    galleries.c.id == gallery
                )
            ).first()
            if state is None:
                raise NotFound("There is no such gallery.", param="gallery")
            rows = connection.execute(
                sa.select(own.number, own.id, gallery_subjects.c.name, own.vector)
                .join(gallery_subjects, gallery_subjects.c.id == own.subject)
                .where(own.gallery == gallery, own.number > after)
                .order_by(own.number)
            ).all()
        vectors = np.frombuffer(b"".join(row.vector for row in rows), "<f4")
        told = Vectors(
            [row.number for row in rows],
            [row.id for row in rows],
            [row.name for row in rows],
            vectors.reshape(len(rows), dimensions),
        )
        return told, state.last_photo, state.removals

    def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditLine]:
        """The newest lines, or those before a line's id, the newest first."""
        return audit.lines(self._database, tenant, before=before, limit=limit)

    def _subject(
        self, connection: sa.Connection, tenant: str, key_id: str, row: Row, subject: str
    ) -> tuple[str, str]:
        """The id and the tag of a subject, who is made where it is new."""
        own = subject_id(row.id, subject)
        tag = connection.scalar(
            sa.select(gallery_subjects.c.tag).where(gallery_subjects.c.id == own)
        )
        if tag is not None:
            return own, str(tag)
        count = sa.select(sa.func.count()).where(gallery_subjects.c.gallery == row.id)
        if (connection.scalar(count) or 0) >= self._most_photos:
            raise InsufficientQuota(f"A gallery has at most {self._most_photos} subjects.")
        made = f"subject-{secrets.token_hex(6)}"
        connection.execute(
            gallery_subjects.insert().values(
                id=own, gallery=row.id, tag=made, name=subject, created_at=time.time()
            )
        )
        audit.note(connection, tenant, key_id, "subject added", row.name, made)
        return own, made
