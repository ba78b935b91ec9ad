"""OpenAI's uploads: a large file in parts, each of which can be sent again."""

import asyncio
from contextlib import closing
from typing import Annotated, Final, Literal

import msgspec

from lmaas.codecs.json import read
from lmaas.http.exchange import Exchange
from lmaas.http.files import FileObject, object_of
from lmaas.http.upload import Form, receive
from lmaas.registry.uploads import Status, StoredPart, Upload
from lmaas.service import Service
from lmaas.types import Record

MAX_BODY_BYTES: Final = 1 << 20
MAX_PART_BYTES: Final = 64 << 20
FORM_BYTES: Final = 1 << 16
"""What a form has beside its file."""


class UploadBody(Record, frozen=True, kw_only=True):
    """A file that will come. What it is, its name and its bytes tell; `mime_type` is only checked
    to be one.
    """

    filename: str
    bytes: int
    purpose: Literal["fine-tune"]
    mime_type: Annotated[str, msgspec.Meta(pattern=r"\A[\w.+-]{1,100}/[\w.+-]{1,100}\Z")]


class CompleteBody(Record, frozen=True, kw_only=True):
    """The parts in their order, and the MD5 of the whole file in hex."""

    part_ids: list[str]
    md5: str | None = None


class UploadPart(Record, frozen=True, kw_only=True):
    """A part that has come; `bytes` is an extension."""

    id: str
    bytes: int
    created_at: int
    upload_id: str
    object: Literal["upload.part"] = "upload.part"


class UploadObject(Record, frozen=True, kw_only=True):
    """An upload; `parts`, by which a client that was cut off goes on, is an extension."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Status
    parts: list[UploadPart]
    file: FileObject | None
    object: Literal["upload"] = "upload"


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Begin to upload a file in parts; an hour is left to complete it."""
    body = read(await exchange.body(MAX_BODY_BYTES), UploadBody)
    upload = await asyncio.to_thread(
        service.data.uploads.create, exchange.tenant, body.filename, body.purpose, body.bytes
    )
    exchange.send_json(_told(upload))


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """How far an upload is."""
    exchange.send_json(
        _told(await service.read(service.data.uploads.get, exchange.tenant, path["id"]))
    )


async def add_part(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Send a part, of at most 64 MiB: a form with the file `data`."""
    upload = await service.read(service.data.uploads.get, exchange.tenant, path["id"])
    kind = exchange.headers.get(b"content-type", b"")
    async with service.workshop.scratch("part") as scratch:
        with closing(Form(kind, scratch, None, file="data")) as form:
            await receive(exchange, form, MAX_PART_BYTES + FORM_BYTES)
        part = await asyncio.to_thread(
            service.data.uploads.add_part, exchange.tenant, upload.id, form.alone()[0]
        )
    exchange.send_json(_part(upload.id, part))


async def complete(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Make a data file of the parts, looked through as `/v1/files` does.

    If something is wrong with it, the upload stays what it was.
    """
    body = read(await exchange.body(MAX_BODY_BYTES), CompleteBody)
    upload = await service.data.complete(exchange.tenant, path["id"], body.part_ids, md5=body.md5)
    exchange.send_json(_told(upload))


async def cancel(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """End an upload; its parts are deleted."""
    exchange.send_json(
        _told(await asyncio.to_thread(service.data.uploads.cancel, exchange.tenant, path["id"]))
    )


def _told(upload: Upload) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.size_bytes,
        created_at=int(upload.created_at),
        expires_at=int(upload.expires_at),
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        parts=[_part(upload.id, part) for part in upload.parts],
        file=None if upload.file is None else object_of(upload.file),
    )


def _part(upload_id: str, part: StoredPart) -> UploadPart:
    return UploadPart(
        id=part.id, bytes=part.size_bytes, created_at=int(part.created_at), upload_id=upload_id
    )
