"""Is the server alive, is it ready, and its metrics."""

from lmaas.errors import Forbidden
from lmaas.http import compression
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import TENANT


async def live(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """200 while the process answers."""
    exchange.send_json({"live": True})


async def ready(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """200 while new requests are accepted, else 503."""
    ready = service.ready()
    exchange.send_json({"ready": ready}, status=200 if ready else 503)


async def metrics(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Prometheus text, of all tenants' models together: for keys of the operator's tenant."""
    if exchange.tenant != TENANT:
        raise Forbidden(f"The metrics are of all tenants: only keys of {TENANT} may read them.")
    body = await compression.shrink(exchange, service.metrics.render())
    exchange.send(body, kind=b"text/plain; version=0.0.4; charset=utf-8")
