"""CompreFace's routes (1.2): subjects, photos, recognition, detection and verification of faces.

Its clients know no galleries: `?gallery=NAME` says which, else it is the only one, or the one
called default. What it knows and we do not is refused by name. Similarities are cosines, from 0 on.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput, NotFound
from lmaas.face_types import MAX_PAGE, Face, Identified, PhotoPage
from lmaas.http.body import decode
from lmaas.http.exchange import Exchange
from lmaas.http.pictures import asked, count, pictures, told
from lmaas.service import Service
from lmaas.service.face_rules import Asked, Seen
from lmaas.service.face_rules import some as at_least_one
from lmaas.types import KeyRecord

IMAGE_QUERY: Final = (
    "gallery", "limit", "det_prob_threshold", "prediction_count", "face_plugins", "status",
)  # fmt: skip
MAX_BODY_BYTES: Final = 65_536
PLUGINS: Final = ("detector", "calculator", "landmarks")
ENDPOINT: Final = "faces"
DIGITS: Final = 5


class SubjectBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A subject's name. `api_endpoint` is what CompreFace's Python client sends beside it when it
    renames: the old name, which the path says as well."""

    subject: str
    api_endpoint: str | None = None


_subject = msgspec.json.Decoder(SubjectBody)
_ids = msgspec.json.Decoder(list[str])


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a request about an image asks for."""

    asked: Asked
    landmarks: bool
    embedding: bool
    status: bool


async def subjects(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The names of all subjects."""
    gallery = await _known(service, exchange)
    found: list[str] = []
    while gallery is not None:
        some = await service.read(
            service.faces.galleries.subjects,
            exchange.tenant,
            gallery,
            after=found[-1] if found else "",
            limit=MAX_PAGE,
        )
        found += [subject.name for subject in some]
        if len(some) < MAX_PAGE:
            break
    exchange.send_json({"subjects": found})


async def add_subject(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Add a subject without photos."""
    body = decode(await exchange.body(MAX_BODY_BYTES), _subject)
    gallery = await _gallery(service, exchange, make=True)
    await service.faces.add_subject(_key(exchange), gallery, body.subject)
    exchange.send_json({"subject": body.subject}, status=201)


async def rename(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Give a subject another name; where that is somebody, they are joined."""
    body = decode(await exchange.body(MAX_BODY_BYTES), _subject)
    gallery = await _gallery(service, exchange)
    await service.faces.rename(_key(exchange), gallery, path["subject"], body.subject)
    exchange.send_json({"updated": True})


async def delete_subject(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a subject and all its photos."""
    gallery = await _gallery(service, exchange)
    await service.faces.delete_subjects(_key(exchange), gallery, [path["subject"]])
    exchange.send_json({"subject": path["subject"]})


async def delete_subjects(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete all subjects and all their photos."""
    gallery = await _gallery(service, exchange)
    gone = await service.faces.delete_subjects(_key(exchange), gallery, None)
    exchange.send_json({"deleted": gone.subjects})


async def photos(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Pages of photos, of one subject or of all."""
    number = count(exchange, "page", 0, 1_000_000)
    size = count(exchange, "size", 20, MAX_PAGE, least=1)
    gallery = await _known(service, exchange)
    page = PhotoPage(photos=(), total=0)
    if gallery is not None:
        page = await service.read(
            service.faces.galleries.photos,
            exchange.tenant,
            gallery,
            exchange.query.get("subject") or None,
            offset=number * size,
            limit=size,
        )
    exchange.send_json(
        {
            "faces": [{"image_id": each.id, "subject": each.subject} for each in page.photos],
            "page_number": number,
            "page_size": size,
            "total_pages": -(-page.total // size),
            "total_elements": page.total,
        }
    )


async def enrol(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Add a photo of the subject that the query names; exactly one face must be in it."""
    subject = exchange.query.get("subject", "")
    if not subject:
        raise InvalidInput("The query parameter subject is missing.", param="subject")
    look = _look(exchange)
    (picture,) = await pictures(service, exchange, ("file",))
    gallery = await _gallery(service, exchange, make=True)
    photo, seen = await service.faces.enrol(
        _key(exchange), gallery, subject, picture, look.asked._replace(limit=None)
    )
    told(exchange, seen.version.ref, seen.headers)
    exchange.send_json({"image_id": photo.id, "subject": photo.subject}, status=201)


async def delete_photos(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete the photos of the subject that the query names, with it; without one, of all."""
    gallery = await _gallery(service, exchange)
    subject = exchange.query.get("subject")
    gone = await service.faces.delete_subjects(
        _key(exchange), gallery, None if subject is None else [subject]
    )
    exchange.send_json({"deleted": gone.photos})


async def delete_photo(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a photo."""
    gallery = await _gallery(service, exchange)
    (gone,) = await service.faces.delete_photos(_key(exchange), gallery, [path["image_id"]])
    exchange.send_json({"image_id": gone.id, "subject": gone.subject})


async def delete_listed(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete photos by a list of their ids."""
    ids = decode(await exchange.body(MAX_BODY_BYTES), _ids)
    gallery = await _gallery(service, exchange)
    gone = await service.faces.delete_photos(_key(exchange), gallery, ids)
    exchange.send_json(
        {"deleted": [{"image_id": each.id, "subject": each.subject} for each in gone]}
    )


async def recognize(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Whose faces an image shows: for each the `prediction_count` likeliest subjects."""
    look = _look(exchange)
    most = count(exchange, "prediction_count", 1, 100, least=1)
    (picture,) = await pictures(service, exchange, ("file",))
    gallery = await _gallery(service, exchange)
    found, seen = await service.faces.identify(
        _key(exchange), gallery, picture, look.asked, most=most
    )
    at_least_one(seen.faces)
    result = [
        _face(face, look, seen)
        | {
            "subjects": _subjects(identified),
            "threshold": found.threshold,
            "false_accept_rate": found.false_accept_rate,
        }
        for face, identified in zip(seen.faces, found.faces, strict=True)
    ]
    _send(exchange, {"result": result}, look, seen)


async def verify_photo(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """How similar the faces of an image are to the photo in the path."""
    look = _look(exchange)
    (picture,) = await pictures(service, exchange, ("file",))
    gallery = await _gallery(service, exchange)
    photo, similar, row, seen = await service.faces.verify_photo(
        _key(exchange), gallery, path["image_id"], picture, look.asked
    )
    limits = (row.threshold, row.false_accept_rate)
    result = [
        _face(face, look, seen) | {"subject": photo.subject} | _similar(value, limits)
        for face, value in zip(seen.faces, similar, strict=True)
    ]
    _send(exchange, {"result": result}, look, seen)


async def verify(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """How similar the faces of `target_image` are to the one of `source_image`."""
    look = _look(exchange)
    source, target = await pictures(service, exchange, ("source_image", "target_image"))
    face, similar, seen, limits = await service.faces.compare(
        _key(exchange), exchange.query.get("model"), (source, target), look.asked
    )
    matches = [
        _face(each, look, seen) | _similar(value, limits)
        for each, value in zip(seen.faces, similar, strict=True)
    ]
    answer = {"source_image_face": _face(face, look, seen), "face_matches": matches}
    _send(exchange, {"result": [answer]}, look, seen)


async def detect(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Where the faces of an image are."""
    look = _look(exchange)
    (picture,) = await pictures(service, exchange, ("file",))
    seen = await service.faces.detect(
        _key(exchange), exchange.query.get("model"), picture, look.asked
    )
    result = [_face(face, look, seen) for face in at_least_one(seen.faces)]
    _send(exchange, {"result": result}, look, seen)


async def no_image(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Images are not kept, only what a model made of them; so there is none to be sent."""
    raise InvalidInput(
        "Images of faces are not kept: a gallery has their vectors alone.", param="image_id"
    )


def _key(exchange: Exchange) -> KeyRecord:
    assert exchange.key is not None
    return exchange.key


async def _gallery(service: Service, exchange: Exchange, *, make: bool = False) -> str:
    return await service.faces.gallery(
        _key(exchange), exchange.query.get("gallery") or None, make=make
    )


async def _known(service: Service, exchange: Exchange) -> str | None:
    """The gallery that is meant; None where there is none yet and none is named."""
    try:
        return await _gallery(service, exchange)
    except NotFound:
        return None


def _look(exchange: Exchange) -> Look:
    """Raises InvalidInput naming the parameter."""
    given = exchange.query.get("face_plugins", "")
    plugins = [name.strip() for name in given.split(",") if name.strip()]
    for name in plugins:
        if name not in PLUGINS:
            raise InvalidInput(
                f"The plugin {name[:50]!a} is not served.",
                hint=f"Known are {', '.join(PLUGINS)}: no model here tells age, gender, pose or "
                "masks.",
                param="face_plugins",
            )
    status = exchange.query.get("status", "") or "false"
    if status.lower() not in ("true", "false"):
        raise InvalidInput(f"status is true or false; received {status[:50]!a}.", param="status")
    return Look(
        asked=asked(exchange, "det_prob_threshold", ENDPOINT),
        landmarks="landmarks" in plugins,
        embedding="calculator" in plugins,
        status=status.lower() == "true",
    )


def _face(face: Face, look: Look, seen: Seen) -> dict[str, Any]:
    box = face.box
    shown: dict[str, Any] = {
        "box": {
            "probability": round(face.score, DIGITS),
            "x_max": round(box.xmax),
            "y_max": round(box.ymax),
            "x_min": round(box.xmin),
            "y_min": round(box.ymin),
        }
    }
    if look.landmarks:
        # A model without points has none to tell.
        shown["landmarks"] = [[round(x), round(y)] for x, y in face.landmarks or ()]
    if look.embedding:
        shown["embedding"] = face.embedding
    if look.status:
        # The parts of a model run side by side: what is measured is the whole call.
        shown["execution_time"] = {"calculator": round(seen.duration_ms, 1)}
    return shown


def _subjects(identified: Identified) -> list[dict[str, Any]]:
    return [
        {
            "subject": match.subject,
            "similarity": round(max(0.0, match.similarity), DIGITS),
            "same": match.same,
        }
        for match in identified.matches
    ]


def _similar(value: float, limits: Sequence[float | None]) -> dict[str, Any]:
    threshold, rate = limits
    return {
        "similarity": round(min(1.0, max(0.0, value)), DIGITS),
        "same": threshold is not None and value >= threshold,
        "threshold": threshold,
        "false_accept_rate": rate,
    }


def _send(exchange: Exchange, answer: dict[str, Any], look: Look, seen: Seen) -> None:
    told(exchange, seen.version.ref, seen.headers)
    if look.status:
        versions = dict.fromkeys(("detector", "calculator"), seen.version.ref)
        answer["plugins_versions"] = versions
    exchange.send_json(answer)
