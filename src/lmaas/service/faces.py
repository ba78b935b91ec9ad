"""Faces: who is in which gallery, and whose face an image shows.

Models find faces and make vectors of them; what is compared, kept and deleted is vectors.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.aside import Aside
from lmaas.config import Settings
from lmaas.errors import InvalidInput, NotFound
from lmaas.face_types import (
    AuditLine,
    Face,
    Gallery,
    GalleryBody,
    Identification,
    Identified,
    Match,
    Photo,
    Removed,
    Verification,
)
from lmaas.registry.galleries import Galleries
from lmaas.registry.gallery_rows import Row, check_subject
from lmaas.registry.store import Registry
from lmaas.service.calls import ModelCalls
from lmaas.service.catalog import Catalog
from lmaas.service.face_rules import (
    TASK,
    Asked,
    Picture,
    Seen,
    area,
    calibrated,
    face_of,
    large_enough,
    only,
    payload_of,
    reaches,
    some,
    vectors_of,
)
from lmaas.service.quota import Quota
from lmaas.serving.face_search import FaceSearch
from lmaas.supervision import Supervisor
from lmaas.types import KeyRecord, ModelVersion

DEFAULT: Final = "default"
"""The gallery of clients that know none."""
FLOAT_BYTES: Final = 4
TIDY_S: Final = 1.0
HINT: Final = "`lmaas faces create NAME --model MODEL` makes one."


class Faces:
    """The galleries of one home, and its models for faces."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        find: Callable[[str, str], Awaitable[ModelVersion]],
        calls: ModelCalls,
        catalog: Catalog,
        quota: Quota,
        aside: Aside,
    ) -> None:
        self._find = find
        self._calls = calls
        self._catalog = catalog
        self._quota = quota
        self._aside = aside
        self.galleries = Galleries(registry.database, settings.max_gallery_photos)
        self._changed = registry.database.watch("galleries")
        self.search = FaceSearch(self.galleries, self._changed, settings.gallery_cache_bytes)

    def start(self, supervisor: Supervisor) -> asyncio.Task[None]:
        """Let what any process deletes leave this one's memory, whether anybody asks or not."""

        async def tidy() -> None:
            seen = -1
            while True:
                number = self._changed()
                if number != seen:
                    await self._aside.read(self.search.tidy)
                    seen = number
                await asyncio.sleep(TIDY_S)

        return supervisor.keep("galleries", tidy)

    # Galleries

    async def create(self, key: KeyRecord, body: GalleryBody, *, exist_ok: bool = False) -> Gallery:
        """A gallery for the vectors of one version. Raises ModelNotFound, Conflict, InvalidInput
        for a model of another task and for a rate that it is not calibrated at.
        """
        version = await self._find(key.tenant, body.model)
        face = face_of(version)
        rate, threshold = body.false_accept_rate, body.threshold
        if rate is not None and threshold is not None:
            raise InvalidInput(
                "Give false_accept_rate or threshold, not both.", param="false_accept_rate"
            )
        if threshold is None and face.rates:
            found = calibrated(face, rate)
            rate, threshold = found
        elif rate is not None:
            raise InvalidInput(
                f"{version.ref} is not calibrated, so no threshold is known for a rate.",
                hint="Give a threshold, or a model that was trained here with data.validation.",
                param="false_accept_rate",
            )
        gallery = Gallery(
            name=body.name,
            model=version.ref,
            dimensions=face.dimensions,
            threshold=threshold,
            false_accept_rate=rate,
            created_at=time.time(),
        )
        return await self._aside.write(
            self.galleries.create, key.tenant, key.id, gallery, exist_ok=exist_ok
        )

    async def delete(self, key: KeyRecord, name: str) -> Removed:
        """A gallery with all that is in it. Raises NotFound."""
        gone = await self._aside.write(self.galleries.delete, key.tenant, key.id, name)
        await self._aside.read(self.search.tidy)
        return gone

    async def audit(
        self, tenant: str, *, before: int | None = None, limit: int = 100
    ) -> list[AuditLine]:
        """The changes of galleries, the newest first."""
        return await self._aside.read(self.galleries.audit, tenant, before=before, limit=limit)

    async def gallery(self, key: KeyRecord, name: str | None, *, make: bool = False) -> str:
        """The gallery that is meant: the named one, the only one, or the one called default.

        With `make`, a tenant without any gets one for its only model of faces. Raises NotFound,
        and InvalidInput where several would do.
        """
        if name is not None:
            return name
        known = [each.name for each in await self._aside.read(self.galleries.of_tenant, key.tenant)]
        if DEFAULT in known:
            return DEFAULT
        if len(known) == 1:
            return known[0]
        if known:
            raise InvalidInput(
                f"There are {len(known)} galleries: name one, or call one {DEFAULT}.",
                hint="Add ?gallery=NAME to the address.",
                param="gallery",
            )
        if not make:
            raise NotFound("There is no gallery.", hint=HINT, param="gallery")
        model = await self._only_model(key)
        await self.create(key, GalleryBody(name=DEFAULT, model=model), exist_ok=True)
        return DEFAULT

    # Subjects and photos

    async def add_subject(self, key: KeyRecord, gallery: str, subject: str) -> None:
        """A subject without photos. Raises NotFound, InvalidInput."""
        await self._aside.write(self.galleries.add_subject, key.tenant, key.id, gallery, subject)

    async def rename(self, key: KeyRecord, gallery: str, subject: str, new: str) -> None:
        """Another name for a subject, joined with who is called so. Raises NotFound."""
        await self._aside.write(self.galleries.rename, key.tenant, key.id, gallery, subject, new)
        await self._aside.read(self.search.tidy)

    async def delete_subjects(
        self, key: KeyRecord, gallery: str, subjects: Sequence[str] | None
    ) -> Removed:
        """Subjects (None: all) with their vectors, from tables, files and memory.

        Raises NotFound.
        """
        gone = await self._aside.write(
            self.galleries.delete_subjects, key.tenant, key.id, gallery, subjects
        )
        await self._aside.read(self.search.tidy)
        return gone

    async def delete_photos(
        self, key: KeyRecord, gallery: str, photos: Sequence[str]
    ) -> list[Photo]:
        """Photos by their ids, from tables, files and memory. Raises NotFound."""
        gone = await self._aside.write(
            self.galleries.delete_photos, key.tenant, key.id, gallery, photos
        )
        await self._aside.read(self.search.tidy)
        return gone

    async def enrol(
        self, key: KeyRecord, gallery: str, subject: str, picture: Picture, asked: Asked
    ) -> tuple[Photo, Seen]:
        """Keep the vector of the one face in an image as a photo of `subject`.

        Raises NotFound, NoFace, SeveralFaces, InsufficientQuota.
        """
        check_subject(subject)
        row = await self._row(key, gallery)
        await self._aside.read(self._quota.check, key.tenant, row.dimensions * FLOAT_BYTES)
        seen = await self.detect(key, row.model, picture, asked)
        face = only(seen.faces)
        photo = await self._aside.write(
            self.galleries.enrol,
            key.tenant,
            key.id,
            gallery,
            subject,
            np.asarray(face.embedding),
            seen.version.ref,
        )
        return photo, seen

    # Questions

    async def detect(
        self, key: KeyRecord, model: str | None, picture: Picture, asked: Asked
    ) -> Seen:
        """The faces of an image; without a model, by that of all galleries, or the only one."""
        if model is None:
            known = await self._aside.read(self.galleries.of_tenant, key.tenant)
            models = {each.model for each in known}
            model = models.pop() if len(models) == 1 else await self._only_model(key)
        version = await self._find(key.tenant, model)
        face_of(version)
        started = time.perf_counter()
        version, answer, headers = await self._calls.predict(
            key,
            model,
            payload_of(picture, asked),
            endpoint=asked.endpoint,
            request_id=asked.request_id,
            version=version,
        )
        faces = msgspec.json.decode(answer.body, type=list[Face])
        found = sorted(filter(large_enough, faces), key=area, reverse=True)
        took = (time.perf_counter() - started) * 1000
        return Seen(found[: asked.limit], version, headers, took)

    async def identify(
        self, key: KeyRecord, gallery: str, picture: Picture, asked: Asked, *, most: int = 1
    ) -> tuple[Identification, Seen]:
        """The faces of an image, and the `most` likeliest subjects for each. Raises NotFound."""
        row = await self._row(key, gallery)
        seen = await self.detect(key, row.model, picture, asked)
        near = (
            [[] for _ in seen.faces]
            if not seen.faces
            else await self._aside.read(self.search.nearest, row, vectors_of(seen.faces, row), most)
        )
        told = tuple(
            Identified(
                box=face.box,
                score=face.score,
                landmarks=face.landmarks,
                matches=tuple(
                    Match(
                        subject=one.subject,
                        similarity=round(one.similarity, 6),
                        same=reaches(one.similarity, row),
                    )
                    for one in nearest
                ),
            )
            for face, nearest in zip(seen.faces, near, strict=True)
        )
        return (
            Identification(
                gallery=row.name,
                model=row.model,
                threshold=row.threshold,
                false_accept_rate=row.false_accept_rate,
                faces=told,
            ),
            seen,
        )

    async def verify(
        self, key: KeyRecord, gallery: str, subject: str, picture: Picture, asked: Asked
    ) -> tuple[Verification, Seen]:
        """Whether the one face of an image is `subject`'s, by the nearest of the photos.

        Raises NotFound for who has no photos, NoFace, SeveralFaces.
        """
        row = await self._row(key, gallery)
        seen = await self.detect(key, row.model, picture, asked)
        face = only(seen.faces)
        similar = await self._aside.read(
            self.search.of_subject, row, vectors_of([face], row), subject
        )
        if similar is None:
            raise NotFound("There is no such subject, or it has no photos.", param="subject")
        return (
            Verification(
                gallery=row.name,
                model=row.model,
                subject=subject,
                similarity=round(similar[0], 6),
                same=reaches(similar[0], row),
                threshold=row.threshold,
                false_accept_rate=row.false_accept_rate,
                box=face.box,
            ),
            seen,
        )

    async def verify_photo(
        self, key: KeyRecord, gallery: str, photo: str, picture: Picture, asked: Asked
    ) -> tuple[Photo, list[float], Row, Seen]:
        """How similar each face of an image is to an enrolled photo. Raises NotFound, NoFace."""
        row = await self._row(key, gallery)
        kept, vector = await self._aside.read(self.galleries.vector, key.tenant, gallery, photo)
        seen = await self.detect(key, row.model, picture, asked)
        return kept, (vectors_of(some(seen.faces), row) @ vector).tolist(), row, seen

    async def compare(
        self, key: KeyRecord, model: str | None, pictures: tuple[Picture, Picture], asked: Asked
    ) -> tuple[Face, list[float], Seen, tuple[float | None, float | None]]:
        """How similar the one face of the first image is to each face of the second; the threshold
        for it, and its false-accept rate. Raises NoFace, SeveralFaces.
        """
        whole = asked._replace(limit=None)
        first = await self.detect(key, model, pictures[0], whole)
        face = only(first.faces)
        named = asked._replace(request_id=f"{asked.request_id}-2")
        second = await self.detect(key, first.version.ref, pictures[1], named)
        own, others = np.asarray(face.embedding), [f.embedding for f in some(second.faces)]
        spec = face_of(second.version)
        rate, threshold = calibrated(spec, None) if spec.rates else (None, None)
        return face, (np.asarray(others) @ own).tolist(), second, (threshold, rate)

    async def _row(self, key: KeyRecord, gallery: str) -> Row:
        return await self._aside.read(self.galleries.row, key.tenant, gallery)

    async def _only_model(self, key: KeyRecord) -> str:
        """The only model of faces; of several, the only pipeline."""
        known = await self._aside.read(self._catalog.latest, key.tenant)
        able = [version for version in known if version.manifest.task == TASK]
        found = [version for version in able if version.manifest.parts] or able
        if len(found) == 1:
            return found[0].ref
        if found:
            raise InvalidInput(
                f"There are several models for faces: {', '.join(v.name for v in found)[:500]}.",
                hint=f"Add ?model=NAME to the address, or make a gallery. {HINT}",
                param="model",
            )
        raise NotFound(
            "There is no model for faces.",
            hint=f"Train, push or pull one for the task {TASK}, or make a pipeline.",
            param="model",
        )
