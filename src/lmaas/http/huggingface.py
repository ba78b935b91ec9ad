"""Hugging Face Inference: raw bytes, or JSON `inputs` and `parameters`, to POST /models/{ref}.

The model's own task answers. These clients do not say which task they mean, except in the path
`/pipeline/…`; so whatever is refused names the task that the model has.
"""

import re
from collections.abc import Mapping
from typing import Final

from lmaas import tasks
from lmaas.codecs import media
from lmaas.errors import InvalidInput
from lmaas.http import huggingface_text, huggingface_vqa, speech
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.tasks.base import refuse_file
from lmaas.types import JSON, ModelVersion, Payload

_NAME: Final = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
MEDIA_TYPE: Final = re.compile(f"{_NAME}/{_NAME}")
"""RFC 6838, section 4.2, in lower case."""
OURS: Final = "application/vnd.lmaas."


async def infer(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Answer with the task's own JSON, for an image `[{"label", "score"}, …]`."""
    ref = path["ref"]
    body = await exchange.body(service.settings.max_body_bytes)
    version = await service.find(exchange.tenant, ref)
    task = version.manifest.task
    spec = tasks.spec(task)
    asked = path.get("task")
    if asked is not None and asked not in (task, *spec.pipelines):
        raise InvalidInput(f"{ref} is a model for {task}, not for {asked[:100]}.", param="task")
    try:
        payload = Payload(
            media_type=media_type_of(exchange.headers, body),
            body=body,
            parameters=dict(spec.pipeline_parameters.get(asked or "", {})),
        )
        if spec.speaks:
            if payload.media_type != JSON:
                raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
            await speech.speak(service, exchange, ref, body)
        elif not spec.generates:
            await _predict(service, exchange, ref, version, payload)
        elif payload.media_type == JSON and huggingface_vqa.is_question(body):
            await huggingface_vqa.answer(service, exchange, ref, body)
        elif payload.media_type == JSON:
            await huggingface_text.generate(service, exchange, ref, body)
        else:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
    except InvalidInput as error:
        if type(error) is not InvalidInput or task in error.message:
            raise
        hint = f"{error.hint or ''} {ref} is a model for {task}.".strip()
        raise InvalidInput(error.message, hint=hint, param=error.param) from None


async def _predict(
    service: Service, exchange: Exchange, ref: str, version: ModelVersion, payload: Payload
) -> None:
    assert exchange.key is not None
    version, answer, headers = await service.calls.predict(
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


def media_type_of(headers: Mapping[bytes, bytes], body: bytes) -> str | None:
    """What a body is: JSON where it begins like it, as no file does; else what its header says.

    A header that says JSON of a file is wrong, and one of our own types is none of a caller's.
    """
    if body[:1] == b"{" or body[:64].lstrip()[:1] in (b"{", b"["):
        return JSON
    said = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if said == JSON:
        return media.media_type_of(body) or JSON
    return said if MEDIA_TYPE.fullmatch(said) and not said.startswith(OURS) else None
