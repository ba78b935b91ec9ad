"""Ollama's calls: chat, generate, embed. Many tools speak nothing else.

Its API has no keys, but its clients send `OLLAMA_API_KEY` or a header of one's own. A stream is
lines of JSON, and is what is sent unless `stream` is false.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import Forbidden
from lmaas.generation_types import GenerateRequest
from lmaas.http import sse
from lmaas.http.body import read
from lmaas.http.collect import collect
from lmaas.http.embeddings import inputs_of, require_vectors, rows_of
from lmaas.http.exchange import Exchange
from lmaas.http.ollama_answer import NDJSON, Clock, OllamaWriter
from lmaas.http.ollama_body import (
    Asked,
    OllamaChat,
    OllamaGenerate,
    OllamaOptions,
    chat_request,
    generate_request,
    model_of,
)
from lmaas.http.openai_types import Body
from lmaas.http.reasoning import check_reasoning
from lmaas.service import Service
from lmaas.types import TEXTS, Payload, TextsCall

UNLOAD: Final = (0, "0", "0s", "0m", "0h")

_chat_decoder = msgspec.json.Decoder(OllamaChat)
_generate_decoder = msgspec.json.Decoder(OllamaGenerate)


class OllamaEmbed(Body, frozen=True, kw_only=True):
    """Texts whose vectors are wanted. They are never cut, whatever `truncate` says."""

    model: str
    input: str | list[str]
    dimensions: Annotated[int, Meta(ge=1, lt=1 << 31)] | None = None
    truncate: bool | None = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None


class OllamaPrompt(Body, frozen=True, kw_only=True):
    """A text whose vector is wanted, as older clients ask for it."""

    model: str
    prompt: str
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None


class OllamaVectors(msgspec.Struct, frozen=True):
    """The vectors, in the order of the texts."""

    model: str
    embeddings: list[list[float]] | msgspec.Raw
    total_duration: int
    prompt_eval_count: int


class OllamaVector(msgspec.Struct, frozen=True):
    """One vector."""

    embedding: list[float] | msgspec.Raw


_embed_decoder = msgspec.json.Decoder(OllamaEmbed)
_prompt_decoder = msgspec.json.Decoder(OllamaPrompt)


async def chat(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Continue a conversation: Ollama's chat, streamed or whole."""
    body = await read(service, exchange, _chat_decoder)
    request = chat_request(body) if body.messages else None
    await _answer(service, exchange, body, request, "chat")


async def generate(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Answer a prompt: Ollama's generate, streamed or whole."""
    body = await read(service, exchange, _generate_decoder)
    request = generate_request(body) if body.prompt or body.images else None
    await _answer(service, exchange, body, request, "generate")


async def _answer(
    service: Service,
    exchange: Exchange,
    body: Asked,
    request: GenerateRequest | None,
    route: Literal["chat", "generate"],
) -> None:
    clock, ref = Clock(), model_of(body.model)
    writer = OllamaWriter(body.model, clock, chat=route == "chat")
    if request is None:
        exchange.send(writer.nothing(await _only_load(service, exchange, ref, body)))
        return
    if request.template.get("enable_thinking"):
        check_reasoning(await service.find(exchange.tenant, ref), "think")
    generation = await sse.begin(service, exchange, ref, request, f"ollama.{route}", None)
    clock.first_token()
    if request.stream:
        await sse.send(exchange, generation, writer, NDJSON)
        return
    (choice,) = await collect(generation)
    exchange.send(writer.whole(choice, generation.usage))


async def _only_load(service: Service, exchange: Exchange, ref: str, body: Asked) -> str:
    """A request that says nothing loads its model, or unloads it where it is to live no longer."""
    assert exchange.key is not None
    if body.keep_alive not in UNLOAD:
        await service.load_model(exchange.tenant, ref)
        return "load"
    if "admin" not in exchange.key.scopes:
        raise Forbidden("Only a key with the scope admin unloads a model.")
    await service.stop_model(exchange.tenant, ref)
    return "unload"


async def embed(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Vectors of texts."""
    body = await read(service, exchange, _embed_decoder)
    clock = Clock()
    vectors, tokens = await _vectors(service, exchange, body.model, body.input, body.dimensions)
    exchange.send_json(
        OllamaVectors(
            model=body.model,
            embeddings=vectors,
            total_duration=clock.passed(),
            prompt_eval_count=tokens,
        )
    )


async def embeddings(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The vector of one text, as older clients ask for it."""
    body = await read(service, exchange, _prompt_decoder)
    vectors, _ = await _vectors(service, exchange, body.model, body.prompt, None)
    exchange.send_json(OllamaVector(msgspec.Raw(bytes(vectors)[1:-1])))


async def _vectors(
    service: Service, exchange: Exchange, model: str, texts: Any, dimensions: int | None
) -> tuple[msgspec.Raw, int]:
    ref = model_of(model)
    version = await service.find(exchange.tenant, ref)
    require_vectors(version, exchange.path)
    call = TextsCall(texts=inputs_of(texts), dimensions=dimensions)
    payload = Payload(media_type=TEXTS, body=msgspec.msgpack.encode(call))
    assert exchange.key is not None
    version, answer, headers = await service.calls.predict(
        exchange.key,
        ref,
        payload,
        endpoint="ollama.embed",
        request_id=exchange.id,
        version=version,
    )
    exchange.extra += headers
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    rows = await rows_of(answer.body, len(call.texts), lambda _, row: row.cast("f").tolist())
    return rows, answer.tokens
