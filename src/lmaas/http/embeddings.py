"""OpenAI's `/v1/embeddings`.

Clients count tokens as OpenAI's models do and may send those ids, which mean other words here: so
ids are taken only from who says that they are the model's own, special ones included.
"""

import asyncio
import base64
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.http import body
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.tasks.text import MAX_TEXTS
from lmaas.types import TEXTS, ModelVersion, Payload, TextsCall

ROWS_AT_ONCE: Final = 64
"""So many vectors are written as JSON before other requests get their turn."""

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]


class InputItem(msgspec.Struct, forbid_unknown_fields=True):
    """A text, or an image in base64 or as a data: URL."""

    text: str | None = None
    image: str | None = None


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request. `input`: a text, texts, token ids, or lists of token ids; for models that see,
    also `{"image": "<base64>"}` among texts (and `{"text": "…"}`).

    `dimensions` cuts the vectors to their first numbers, at length 1 again. `own_token_ids` is an
    extension: the ids are of this model's tokenizer.
    """

    model: str
    input: str | list[str | TokenId | list[TokenId] | InputItem]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, lt=1 << 31)] | None = None
    user: str | None = None
    own_token_ids: bool | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """The vector of input `index`: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class TextUsage(msgspec.Struct, kw_only=True):
    """Tokens read; nothing is written."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding] | msgspec.Raw
    model: str
    usage: TextUsage


_decoder = msgspec.json.Decoder(EmbeddingsBody)


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Vectors of texts and images."""
    request = await body.read(service, exchange, _decoder)
    version = await service.find(exchange.tenant, request.model)
    given, images = taken_apart(request.input)
    require_vectors(version, "/v1/embeddings", images=bool(images))
    texts = inputs_of(given) if given or not images else ()
    call = TextsCall(texts=texts, images=images, dimensions=request.dimensions)
    check_ids(call, version, own=bool(request.own_token_ids))
    payload = Payload(media_type=TEXTS, body=msgspec.msgpack.encode(call))
    assert exchange.key is not None
    version, answer, headers = await service.calls.predict(
        exchange.key,
        request.model,
        payload,
        endpoint="embeddings",
        request_id=exchange.id,
        version=version,
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    show = _as_base64 if request.encoding_format == "base64" else _as_numbers
    exchange.send_json(
        Embeddings(
            data=await rows_of(answer.body, len(call.texts) + len(images), show),
            model=version.ref,
            usage=TextUsage(prompt_tokens=answer.tokens, total_tokens=answer.tokens),
        )
    )


def check_ids(call: TextsCall, version: ModelVersion, *, own: bool) -> None:
    """Refuse token ids of another tokenizer: nothing else would tell. Raises InvalidInput."""
    upstream = version.manifest.upstream
    theirs = upstream is not None and upstream.dialect == "openai"
    if not own and not theirs and any(not isinstance(each, str) for each in call.texts):
        raise InvalidInput(
            "input has token ids, and does not say that they are this model's own.",
            hint="Send texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or "
            'add "own_token_ids": true if the ids come from this model\'s tokenizer.',
            param="input",
        )


def taken_apart(given: str | list[Any]) -> tuple[str | list[Any], dict[int, str]]:
    """The inputs that are texts or token ids, and images by their places. Raises InvalidInput."""
    if not isinstance(given, list) or not any(isinstance(each, InputItem) for each in given):
        return given, {}
    others: list[Any] = []
    images = {}
    for place, each in enumerate(given):
        if not isinstance(each, InputItem):
            others.append(each)
        elif (each.text is None) == (each.image is None):
            raise InvalidInput(f"input[{place}] must have a text or an image.", param="input")
        elif each.image is not None:
            images[place] = each.image
        else:
            others.append(each.text)
    if images and any(not isinstance(each, str) for each in others):
        raise InvalidInput("input mixes images and token ids.", param="input")
    return others, images


def require_vectors(version: ModelVersion, route: str, *, images: bool = False) -> None:
    """Refuse a model that gives no vectors, or none of images."""
    embeds = tasks.spec(version.manifest.task).embeds
    if not embeds:
        require_task(version, "embedding", route)
    if images and "image" not in embeds:
        raise InvalidInput(
            f"{version.ref} gives vectors of texts, and none of images.",
            hint="CLIP and SigLIP checkpoints give both.",
            param="input",
        )


def require_task(version: ModelVersion, task: str, route: str) -> None:
    """Refuse a model that does something else."""
    if version.manifest.task != task:
        raise InvalidInput(
            f"{version.ref} is a model for {version.manifest.task}; {route} needs one for {task}.",
            hint="GET /v1/models lists the models.",
            param="model",
        )


def inputs_of(given: str | list[Any]) -> tuple[str | tuple[int, ...], ...]:
    """The inputs one by one. Raises InvalidInput for what is empty, mixed or too much."""
    if isinstance(given, list) and given and isinstance(given[0], int):
        given = [given]
    inputs = [given] if isinstance(given, str) else given
    if not inputs:
        raise InvalidInput("input is empty.", param="input")
    if len(inputs) > MAX_TEXTS:
        raise InvalidInput(
            f"input has {len(inputs)} texts; at most {MAX_TEXTS} are taken at once.", param="input"
        )
    kind = type(inputs[0])
    for index, each in enumerate(inputs):
        if type(each) is not kind or (kind is list and not all(type(i) is int for i in each)):
            raise InvalidInput("input mixes texts and token ids.", param="input")
        if not each:
            raise InvalidInput(f"input[{index}] is empty.", param="input")
    return tuple(each if isinstance(each, str) else tuple(each) for each in inputs)


async def rows_of(raw: bytes, count: int, show: Callable[[int, memoryview], Any]) -> msgspec.Raw:
    """What `show` makes of each of `count` rows of raw float32, as a JSON list.

    Other requests get their turn in between.
    """
    size = len(raw) // count
    parts = []
    with memoryview(raw) as view:
        for start in range(0, count, ROWS_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            end = min(start + ROWS_AT_ONCE, count)
            rows = [show(i, view[i * size : (i + 1) * size]) for i in range(start, end)]
            parts.append(msgspec.json.encode(rows)[1:-1])
    return msgspec.Raw(b"[%b]" % b",".join(parts))


def _as_numbers(index: int, row: memoryview) -> Embedding:
    return Embedding(index=index, embedding=[float(number) for number in row.cast("f")])


def _as_base64(index: int, row: memoryview) -> Embedding:
    return Embedding(index=index, embedding=base64.b64encode(row).decode())
