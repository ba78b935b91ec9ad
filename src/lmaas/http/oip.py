"""Open Inference Protocol v2 with the binary tensor extension, and Triton's of configuration,
statistics and the model repository."""

from typing import Any

from lmaas.codecs.json import read
from lmaas.errors import InvalidInput
from lmaas.http import compression, oip_models
from lmaas.http.exchange import JSON, Exchange
from lmaas.service import Service
from lmaas.types import TENSORS, Payload, Record

LENGTH = b"inference-header-content-length"
MAX_BODY_BYTES = 65_536


class ControlBody(Record, frozen=True):
    """A model is to be loaded or unloaded; `parameters` may say nothing that is not so anyway."""

    parameters: dict[str, Any] | None = None


async def server(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Name, version and extensions of this server."""
    exchange.send_json(oip_models.server_metadata())


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Metadata of a model: versions, inputs and outputs."""
    exchange.send_json(await oip_models.metadata(service, exchange.tenant, _ref(path)))


async def model_ready(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """200 when the model exists: it loads on its first call."""
    await service.find(exchange.tenant, _ref(path))
    exchange.send_json({"ready": True})


async def config(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """How a model is served: its tensors, and how many samples are joined."""
    exchange.send_json(await oip_models.config(service, exchange.tenant, _ref(path)))


async def statistics(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What a version did since the server's start, or the latest of each model."""
    ref = _ref(path) if "ref" in path else None
    exchange.send_json(await oip_models.statistics(service, exchange.tenant, ref))


async def index(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The latest version of each model, and whether it can be called."""
    raw = await exchange.body(MAX_BODY_BYTES)
    body = read(raw, oip_models.IndexBody) if raw else oip_models.IndexBody()
    exchange.send_json(await oip_models.index(service, exchange.tenant, body))


async def load(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Load a model now."""
    await _check_control(exchange)
    await service.load_model(exchange.tenant, path["ref"])
    exchange.send_json({})


async def unload(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Unload a model after its running requests."""
    await _check_control(exchange)
    await service.stop_model(exchange.tenant, path["ref"])
    exchange.send_json({})


async def _check_control(exchange: Exchange) -> None:
    raw = await exchange.body(MAX_BODY_BYTES)
    body = read(raw, ControlBody) if raw else ControlBody()
    for name, value in (body.parameters or {}).items():
        if (name, value) != ("unload_dependents", False):
            raise InvalidInput(f"The parameter {name[:100]!r} is not supported.", param=name)


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Run raw tensors."""
    body = await exchange.body(service.settings.max_body_bytes)
    length = exchange.headers.get(LENGTH)
    if length is not None and not length.isdigit():
        raise InvalidInput("Inference-Header-Content-Length must be a number.")
    payload = Payload(media_type=TENSORS, body=body, json_bytes=int(length) if length else None)
    assert exchange.key is not None
    version, answer, headers = await service.calls.predict(
        exchange.key, _ref(path), payload, endpoint="infer", request_id=exchange.id
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    kind = JSON
    if answer.json_bytes is not None:
        exchange.extra.append((LENGTH, str(answer.json_bytes).encode()))
        kind = b"application/octet-stream"
    exchange.send(await compression.shrink(exchange, answer.body), kind=kind)


def _ref(path: dict[str, str]) -> str:
    return oip_models.ref_of(path["ref"], path.get("version", ""))
