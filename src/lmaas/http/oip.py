"""Open Inference Protocol v2 with the binary tensor extension."""

import lmaas
from lmaas.codecs.tensor import DATATYPES
from lmaas.errors import InvalidInput
from lmaas.http.exchange import JSON, Exchange
from lmaas.service import Service
from lmaas.types import Payload, Record, TensorSpec

LENGTH = b"inference-header-content-length"


class ServerMetadata(Record, frozen=True, kw_only=True):
    """Who answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Record, frozen=True, kw_only=True):
    """An input or output; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Record, frozen=True, kw_only=True):
    """A model's versions, inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


async def server(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Name, version and extensions of this server."""
    exchange.send_json(
        ServerMetadata(name="lmaas", version=lmaas.__version__, extensions=("binary_tensor_data",))
    )


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Metadata of a model: versions, inputs and outputs."""
    version = service.catalog.get(exchange.tenant, _ref(path))
    versions = service.catalog.versions(exchange.tenant, version.name)
    signature = version.manifest.signature
    exchange.send_json(
        ModelMetadata(
            name=version.name,
            versions=tuple(str(v.version) for v in versions),
            platform=version.manifest.engine,
            inputs=tuple(map(_spec, signature.inputs)),
            outputs=tuple(map(_spec, signature.outputs)),
        )
    )


async def model_ready(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """200 when the model exists: it loads on its first call."""
    service.catalog.get(exchange.tenant, _ref(path))
    exchange.send_json({"ready": True})


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Run raw tensors."""
    body = await exchange.body(service.settings.max_body_bytes)
    length = exchange.headers.get(LENGTH)
    if length is not None and not length.isdigit():
        raise InvalidInput("Inference-Header-Content-Length must be a number.")
    payload = Payload(format="tensors", body=body, json_bytes=int(length) if length else None)
    assert exchange.key is not None
    version, answer, headers = await service.predict(
        exchange.key, _ref(path), payload, endpoint="infer", request_id=exchange.id
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    kind = JSON
    if answer.json_bytes is not None:
        exchange.extra.append((LENGTH, str(answer.json_bytes).encode()))
        kind = b"application/octet-stream"
    exchange.send(answer.body, kind=kind)


def _ref(path: dict[str, str]) -> str:
    return f"{path['ref']}:{path['version']}" if "version" in path else path["ref"]


def _spec(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=DATATYPES[spec.dtype], shape=spec.shape)
