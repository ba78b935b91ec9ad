"""OpenAI's files: training data that is uploaded, listed, read and deleted."""

import asyncio
from contextlib import closing
from typing import Literal, get_args

from lmaas.errors import InvalidInput
from lmaas.http.download import send
from lmaas.http.exchange import Exchange
from lmaas.http.jobs import number
from lmaas.http.upload import Form, receive
from lmaas.registry.data_files import DataFile, Purpose
from lmaas.service import Service
from lmaas.types import Record

LIST_QUERY = ("after", "limit", "order", "purpose")
MAX_PAGE = 10_000


class FileObject(Record, frozen=True, kw_only=True):
    """An uploaded file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class FileList(Record, frozen=True, kw_only=True):
    """A page of files."""

    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


class DeletedFile(Record, frozen=True, kw_only=True):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Upload a file: a form with the part `file` and the field `purpose`, "fine-tune".

    JSONL, CSV, Parquet or zipped folders of images, looked through to the end: what is wrong is
    told with its line, and nothing is kept.
    """
    kind = exchange.headers.get(b"content-type", b"")
    async with service.workshop.scratch("upload") as scratch:
        with closing(Form(kind, scratch, "purpose")) as form:
            await receive(exchange, form, service.settings.max_upload_bytes)
        source, purpose = form.alone()
        if purpose not in get_args(Purpose):
            raise InvalidInput(f"purpose is fine-tune; received {purpose[:50]!r}.", param="purpose")
        record = await service.data.add(exchange.tenant, source)
    exchange.send_json(object_of(record))


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Files, newest first; `after` is the last id of the page before."""
    query = exchange.query
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidInput(f"order is asc or desc; received {order[:50]!r}.", param="order")
    found = await asyncio.to_thread(service.data.all, exchange.tenant)
    found = [each for each in found if query.get("purpose") in (None, each.purpose)]
    if order == "asc":
        found.reverse()
    if after := query.get("after"):
        place = [each.id for each in found]
        if after not in place:
            raise InvalidInput(f"There is no file {after[:100]!r}.", param="after")
        found = found[place.index(after) + 1 :]
    limit = number(exchange, "limit", MAX_PAGE)
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is from 1 to {MAX_PAGE}; received {limit}.", param="limit")
    told = [object_of(each) for each in found[:limit]]
    exchange.send_json(
        FileList(
            data=told,
            has_more=len(found) > limit,
            first_id=told[0].id if told else None,
            last_id=told[-1].id if told else None,
        )
    )


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What is known of a file."""
    exchange.send_json(object_of(await service.read(service.data.get, exchange.tenant, path["id"])))


async def delete(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Delete a file that no job needs any more."""
    record = await asyncio.to_thread(service.data.remove, exchange.tenant, path["id"])
    exchange.send_json(DeletedFile(id=record.id))


async def content(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A file's bytes."""
    await send(exchange, await service.read(service.data.path, exchange.tenant, path["id"]))


def object_of(record: DataFile) -> FileObject:
    """A file as this protocol tells it."""
    return FileObject(
        id=record.id,
        bytes=record.size_bytes,
        created_at=int(record.created_at),
        filename=record.filename,
        purpose=record.purpose,
    )
