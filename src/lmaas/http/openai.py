"""OpenAI's model listing."""

from typing import Any

from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import ModelVersion


async def models(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """All models, the latest version of each."""
    data = [_show(version, version.name) for version in service.models(exchange.tenant)]
    exchange.send_json({"object": "list", "data": data})


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One model by name, version or alias."""
    exchange.send_json(_show(service.model(exchange.tenant, path["ref"]), path["ref"]))


def _show(version: ModelVersion, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(version.created_at),
        "owned_by": version.tenant,
    }
