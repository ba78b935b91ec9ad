"""Hugging Face Inference: raw bytes, or JSON `inputs` and `parameters`, to POST /models/{ref}."""

from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import Payload


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Answer with the task's own JSON, for an image `[{"label", "score"}, …]`."""
    body = await exchange.body(service.settings.max_body_bytes)
    is_json = exchange.headers.get(b"content-type", b"").startswith(b"application/json")
    payload = Payload(format="json" if is_json else "image", body=body)
    assert exchange.key is not None
    version, answer, headers = await service.predict(
        exchange.key, path["ref"], payload, endpoint="models", request_id=exchange.id
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    exchange.send(answer.body)
