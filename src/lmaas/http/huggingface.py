"""Hugging Face Inference: raw bytes, or JSON `inputs` and `parameters`, to POST /models/{ref}.

The model's own task answers. These clients do not say which task they mean, except in the path
`/pipeline/…`; so whatever is refused names the task that the model has.
"""

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.http import huggingface_text
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import ModelVersion, Payload

PIPELINES = {
    "feature-extraction": "embedding",
    "sentence-similarity": "embedding",
    "tabular-classification": "tabular",
    "tabular-regression": "tabular",
    "text-ranking": "text-ranking",
}
"""Hugging Face's names of tasks where they are not ours."""


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Answer with the task's own JSON, for an image `[{"label", "score"}, …]`."""
    ref = path["ref"]
    body = await exchange.body(service.settings.max_body_bytes)
    version = await service.find(exchange.tenant, ref)
    task = version.manifest.task
    asked = path.get("task")
    if asked is not None and PIPELINES.get(asked, asked) != task:
        raise InvalidInput(f"{ref} is a model for {task}, not for {asked[:100]}.", param="task")
    try:
        if tasks.streams(task):
            await huggingface_text.generate(service, exchange, ref, body)
            return
        await _predict(service, exchange, ref, version, body)
    except InvalidInput as error:
        if type(error) is not InvalidInput or task in error.message:
            raise
        hint = f"{error.hint or ''} {ref} is a model for {task}.".strip()
        raise InvalidInput(error.message, hint=hint, param=error.param) from None


async def _predict(
    service: Service, exchange: Exchange, ref: str, version: ModelVersion, body: bytes
) -> None:
    kind = exchange.headers.get(b"content-type", b"")
    payload = Payload(format="json" if _is_json(kind, body) else "image", body=body)
    assert exchange.key is not None
    version, answer, headers = await service.predict(
        exchange.key,
        ref,
        payload,
        endpoint="models",
        request_id=exchange.id,
        version=version,
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    exchange.send(answer.body)


def _is_json(kind: bytes, body: bytes) -> bool:
    """Whether a body is JSON: because it says so, or because nothing else begins like it."""
    if kind.startswith(b"application/json"):
        return True
    return not kind.startswith(b"image/") and body[:64].lstrip()[:1] in (b"{", b"[")
