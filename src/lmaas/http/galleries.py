"""Galleries of faces: made and deleted below /api/galleries (admin), used below /v1/galleries."""

from typing import Final

from lmaas.codecs.json import read
from lmaas.face_types import MAX_PAGE, GalleryBody
from lmaas.http.exchange import Exchange
from lmaas.http.pictures import asked, count, pictures, told
from lmaas.service import Service
from lmaas.types import Record

MAX_BODY_BYTES: Final = 65_536
IMAGE_QUERY: Final = ("threshold", "limit")
ENDPOINT: Final = "faces"


class RenameBody(Record, frozen=True, kw_only=True):
    """Another name for a subject."""

    name: str


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """All galleries."""
    exchange.send_json(await service.read(service.faces.galleries.of_tenant, exchange.tenant))


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Make a gallery, for the vectors of one version of a model for face recognition."""
    body = read(await exchange.body(MAX_BODY_BYTES), GalleryBody)
    assert exchange.key is not None
    exchange.send_json(await service.faces.create(exchange.key, body), status=201)


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One gallery."""
    exchange.send_json(
        await service.read(service.faces.galleries.get, exchange.tenant, path["name"])
    )


async def delete(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a gallery: its subjects and vectors leave tables, files and memory."""
    assert exchange.key is not None
    exchange.send_json(await service.faces.delete(exchange.key, path["name"]))


async def audit(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The changes of all galleries, the newest first; `before` is a line's id."""
    before = count(exchange, "before", 0, 999_999_999)
    limit = count(exchange, "limit", 100, MAX_PAGE, least=1)
    lines = await service.faces.audit(exchange.tenant, before=before or None, limit=limit)
    exchange.send_json(lines)


async def subjects(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The subjects of a gallery by name, from the first one after `after` on."""
    limit = count(exchange, "limit", 100, MAX_PAGE, least=1)
    exchange.send_json(
        await service.read(
            service.faces.galleries.subjects,
            exchange.tenant,
            path["name"],
            after=exchange.query.get("after", ""),
            limit=limit,
        )
    )


async def rename(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Give a subject another name; where that is somebody, they are joined."""
    body = read(await exchange.body(MAX_BODY_BYTES), RenameBody)
    assert exchange.key is not None
    await service.faces.rename(exchange.key, path["name"], path["subject"], body.name)
    exchange.send_json({"name": body.name})


async def forget(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a subject: the name and all vectors leave tables, files and memory."""
    assert exchange.key is not None
    exchange.send_json(
        await service.faces.delete_subjects(exchange.key, path["name"], [path["subject"]])
    )


async def enrol(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Keep the vector of the one face in an image (a file, a form's `file`, or base64) as a photo
    of a subject, who is made where it is new."""
    assert exchange.key is not None
    (picture,) = await pictures(service, exchange, ("file",))
    photo, seen = await service.faces.enrol(
        exchange.key,
        path["name"],
        path["subject"],
        picture,
        asked(exchange, "threshold", ENDPOINT),
    )
    told(exchange, seen.version.ref, seen.headers)
    exchange.send_json(photo, status=201)


async def photos(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The photos of a subject, oldest first."""
    page = await service.read(
        service.faces.galleries.photos,
        exchange.tenant,
        path["name"],
        path["subject"],
        offset=count(exchange, "offset", 0, 999_999_999),
        limit=count(exchange, "limit", 100, MAX_PAGE, least=1),
    )
    exchange.send_json(page)


async def delete_photo(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a photo: its vector leaves tables, files and memory."""
    assert exchange.key is not None
    (gone,) = await service.faces.delete_photos(exchange.key, path["name"], [path["photo"]])
    exchange.send_json(gone)


async def identify(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Whose faces an image shows: for each the `most` likeliest subjects."""
    assert exchange.key is not None
    (picture,) = await pictures(service, exchange, ("file",))
    found, seen = await service.faces.identify(
        exchange.key,
        path["name"],
        picture,
        asked(exchange, "threshold", ENDPOINT),
        most=count(exchange, "most", 1, 100, least=1),
    )
    told(exchange, seen.version.ref, seen.headers)
    exchange.send_json(found)


async def verify(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Whether the one face of an image is a subject's, by the nearest of all its photos."""
    assert exchange.key is not None
    (picture,) = await pictures(service, exchange, ("file",))
    found, seen = await service.faces.verify(
        exchange.key,
        path["name"],
        path["subject"],
        picture,
        asked(exchange, "threshold", ENDPOINT),
    )
    told(exchange, seen.version.ref, seen.headers)
    exchange.send_json(found)
