"""OpenAI's model listing, and Anthropic's at the same paths for who names its version."""

from typing import Literal

from lmaas.http import messages_models
from lmaas.http.doors import ANTHROPIC
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import ModelVersion, Record


class ModelObject(Record, frozen=True, kw_only=True):
    """A model as OpenAI's API shows it, and its task; `created` is in Unix seconds."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    task: str


class ModelList(Record, frozen=True, kw_only=True):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


async def models(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """All models, the latest version of each; Anthropic's clients get theirs in pages."""
    known = await service.read(service.catalog.latest, exchange.tenant)
    if ANTHROPIC in exchange.headers:
        exchange.send_json(messages_models.page(known, exchange.query))
    else:
        exchange.send_json(ModelList(data=[_show(version, version.name) for version in known]))


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One model by name, version or alias."""
    version = await service.find(exchange.tenant, path["ref"])
    show = messages_models.show if ANTHROPIC in exchange.headers else _show
    exchange.send_json(show(version, path["ref"]))


def _show(version: ModelVersion, name: str) -> ModelObject:
    return ModelObject(
        id=name,
        created=int(version.created_at),
        owned_by=version.tenant,
        task=version.manifest.task,
    )
