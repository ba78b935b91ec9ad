"""OpenAI's model listing."""

from typing import Literal

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
    """All models, the latest version of each."""
    data = [_show(version, version.name) for version in service.catalog.latest(exchange.tenant)]
    exchange.send_json(ModelList(data=data))


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One model by name, version or alias."""
    exchange.send_json(_show(service.catalog.get(exchange.tenant, path["ref"]), path["ref"]))


def _show(version: ModelVersion, name: str) -> ModelObject:
    return ModelObject(
        id=name,
        created=int(version.created_at),
        owned_by=version.tenant,
        task=version.manifest.task,
    )
