"""Open Inference Protocol v2 with the binary tensor extension."""

import lmaas
from lmaas.codecs.tensor import DATATYPES
from lmaas.errors import InvalidInput
from lmaas.http.exchange import JSON, Exchange
from lmaas.service import Service
from lmaas.types import Payload, TensorSpec

LENGTH = b"inference-header-content-length"


async def server(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Name, version and extensions of this server."""
    told = {"name": "lmaas", "version": lmaas.__version__, "extensions": ["binary_tensor_data"]}
    exchange.send_json(told)


async def model(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Metadata of a model: versions, inputs and outputs."""
    version = service.model(exchange.tenant, _ref(path))
    versions = service.versions(exchange.tenant, version.name)
    signature = version.manifest.signature
    exchange.send_json(
        {
            "name": version.name,
            "versions": [str(v.version) for v in versions],
            "platform": "openvino",
            "inputs": [_spec(spec) for spec in signature.inputs],
            "outputs": [_spec(spec) for spec in signature.outputs],
        }
    )


async def model_ready(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """200 when the model exists: it loads on its first call."""
    service.model(exchange.tenant, _ref(path))
    exchange.send_json({"ready": True})


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Run raw tensors."""
    body = await exchange.body(service.settings.max_body_bytes)
    length = exchange.headers.get(LENGTH)
    if length is not None and not length.isdigit():
        raise InvalidInput("Inference-Header-Content-Length must be a number.")
    payload = Payload(format="tensors", body=body, json_bytes=int(length) if length else None)
    version, answer = await service.predict(exchange.tenant, _ref(path), payload)
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    kind = JSON
    if answer.json_bytes is not None:
        exchange.extra.append((LENGTH, str(answer.json_bytes).encode()))
        kind = b"application/octet-stream"
    exchange.send(answer.body, kind=kind)


def _ref(path: dict[str, str]) -> str:
    return f"{path['ref']}:{path['version']}" if "version" in path else path["ref"]


def _spec(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)}
