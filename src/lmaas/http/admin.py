"""What an operator does over HTTP; every route needs the scope admin."""

from typing import Annotated

import msgspec

from lmaas.accounts.records import NO_LIMITS, Limits
from lmaas.codecs.json import read
from lmaas.errors import InvalidInput
from lmaas.http import download, jobs
from lmaas.http.exchange import Exchange
from lmaas.job import CURVES_FILE
from lmaas.service import Service
from lmaas.service.model_jobs import variant_of
from lmaas.types import (
    CompressOptions,
    ConnectBody,
    KeyRecord,
    PipelineBody,
    PullBody,
    Record,
    Scope,
)

MAX_BODY_BYTES = 65_536
MARKDOWN = b"text/markdown; charset=utf-8"
"""A text to measure on is at most a million characters, some of them escaped."""


class AliasBody(Record, frozen=True, kw_only=True):
    """Which version an alias is to name."""

    version: Annotated[int, msgspec.Meta(ge=1)]


class KeyBody(Record, frozen=True, kw_only=True):
    """A key to be made."""

    name: str
    scopes: tuple[Scope, ...] = ("call",)
    limits: Limits = NO_LIMITS


class NewKey(Record, frozen=True, kw_only=True):
    """A key that was made, and its text, which is told this once."""

    record: KeyRecord
    key: str


async def ps(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The loaded models."""
    exchange.send_json(service.ps(exchange.tenant))


async def whoami(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The key that asks."""
    exchange.send_json(exchange.key)


async def models(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The latest version of every model, in full."""
    exchange.send_json(await service.read(service.catalog.latest, exchange.tenant))


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One version in full."""
    exchange.send_json(await service.find(exchange.tenant, path["ref"]))


async def card(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The model card of a version, in Markdown with a YAML header; empty where it has none."""
    version = await service.find(exchange.tenant, path["ref"])
    exchange.send(version.manifest.card.encode(), kind=MARKDOWN)


async def curves(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The learning curves of a trained version, as a picture."""
    await download.send(
        exchange,
        await service.read(service.catalog.file, exchange.tenant, path["ref"], CURVES_FILE),
        b"image/png",
    )


async def versions(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """All versions of a model, oldest first."""
    exchange.send_json(await service.read(service.catalog.versions, exchange.tenant, path["ref"]))


async def remove(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Remove a version or a model; force=true removes aliases that point to it too."""
    text = exchange.query.get("force", "false")
    if text not in ("true", "false"):
        raise InvalidInput(f"force is true or false; received {text!r}.", param="force")
    exchange.send_json(
        await service.write(
            service.catalog.remove, exchange.tenant, path["ref"], force=text == "true"
        )
    )


async def load(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Load a model now."""
    exchange.send_json(await service.load_model(exchange.tenant, path["ref"]))


async def stop(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Unload a model after its running requests."""
    exchange.send_json(await service.stop_model(exchange.tenant, path["ref"]))


async def pull(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Download a model from the server's hub (HF_ENDPOINT) and register it; answers when done.

    It is a job, which goes on when its caller goes away; with wait=false the answer is the job.
    """
    jobs.check_wait(exchange)
    body = read(await exchange.body(MAX_BODY_BYTES), PullBody)
    assert exchange.key is not None
    pull = service.model_jobs.pull
    job = await service.write(pull, exchange.tenant, body, key_id=exchange.key.id)
    if done := await jobs.finished(service, exchange, job):
        version = await service.find(exchange.tenant, str(done.model))
        exchange.send_json(version, status=201)


async def connect(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Serve a model that another OpenAI-compatible service runs."""
    body = read(await exchange.body(MAX_BODY_BYTES), ConnectBody)
    exchange.send_json(await service.catalog.connect(exchange.tenant, body), status=201)


async def make_pipeline(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Make one model of several of this server's, each for a role that the task has."""
    body = read(await exchange.body(MAX_BODY_BYTES), PipelineBody)
    exchange.send_json(await service.pipelines.make(exchange.tenant, body), status=201)


async def compress(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Make a smaller variant of a model; answers when it is measured and registered.

    It is a job, which goes on when its caller goes away; with wait=false the answer is the job.
    """
    jobs.check_wait(exchange)
    body = await exchange.body(service.settings.max_body_bytes)
    options = await service.read(read, body, CompressOptions)  # samples may be many megabytes
    assert exchange.key is not None
    job = await service.write(
        service.model_jobs.compress,
        exchange.tenant,
        path["ref"],
        options,
        key_id=exchange.key.id,
    )
    if done := await jobs.finished(service, exchange, job):
        version = await service.find(exchange.tenant, str(done.model))
        exchange.send_json(variant_of(done, version), status=201)


async def set_alias(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Point an alias at a version; callers of the alias move at once."""
    body = read(await exchange.body(MAX_BODY_BYTES), AliasBody)
    tenant, name, alias = exchange.tenant, path["ref"], path["alias"]
    exchange.send_json(
        await service.write(service.catalog.set_alias, tenant, name, alias, body.version)
    )


async def remove_alias(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Remove an alias; the version that it names stays."""
    await service.write(service.catalog.remove_alias, exchange.tenant, path["ref"], path["alias"])
    exchange.send_json({"removed": f"{path['ref']}@{path['alias']}"})


async def keys(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """All keys, without their secrets."""
    exchange.send_json(await service.read(service.list_keys, exchange.tenant))


async def create_key(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Make a key; its text is told this once."""
    body = read(await exchange.body(MAX_BODY_BYTES), KeyBody)
    record, text = await service.write(
        service.create_key, exchange.tenant, body.name, body.scopes, body.limits
    )
    exchange.send_json(NewKey(record=record, key=text), status=201)


async def revoke_key(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """End a key now."""
    exchange.send_json(await service.write(service.revoke_key, exchange.tenant, path["id"]))
