"""What an operator does over HTTP; every route needs the scope admin."""

from lmaas.http.exchange import Exchange
from lmaas.service import Service


async def ps(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The loaded models."""
    exchange.send_json(service.ps(exchange.tenant))


async def whoami(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The key that asks."""
    exchange.send_json(exchange.key)


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One version in full."""
    exchange.send_json(service.model(exchange.tenant, path["ref"]))


async def remove(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Remove a version or a model."""
    exchange.send_json(service.remove(exchange.tenant, path["ref"]))


async def load(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Load a model now."""
    exchange.send_json(await service.load_model(exchange.tenant, path["ref"]))


async def stop(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Unload a model."""
    exchange.send_json(await service.stop_model(exchange.tenant, path["ref"]))
