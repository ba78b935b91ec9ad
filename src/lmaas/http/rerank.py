"""Rerank in the shape of Cohere and Jina: documents, the most relevant to a query first."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.http import body
from lmaas.http.embeddings import TextUsage, require_task
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import TEXTS, Payload, TextsCall


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """A document as an object."""

    text: str


class RerankBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request. `top_n`: so many of the best; all where it is left out."""

    model: str
    query: str
    documents: list[str | Document]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Document `index` of the request; `relevance_score` is within 0 to 1."""

    index: int
    relevance_score: float
    document: Document | None = None


class Reranked(msgspec.Struct, kw_only=True):
    """The results, best first."""

    id: str
    model: str
    results: list[Result]
    usage: TextUsage


_decoder = msgspec.json.Decoder(RerankBody)


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Documents by their relevance to a query."""
    request = await body.read(service, exchange, _decoder)
    version = await service.find(exchange.tenant, request.model)
    require_task(version, "text-ranking", "/v1/rerank")
    texts = tuple(d if isinstance(d, str) else d.text for d in request.documents)
    payload = Payload(
        media_type=TEXTS, body=msgspec.msgpack.encode(TextsCall(texts=texts, query=request.query))
    )
    assert exchange.key is not None
    version, answer, headers = await service.calls.predict(
        exchange.key,
        request.model,
        payload,
        endpoint="rerank",
        request_id=exchange.id,
        version=version,
    )
    exchange.extra += headers
    with memoryview(answer.body) as view:
        scores = view.cast("f").tolist()
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    exchange.model = version.ref
    exchange.extra.append((b"x-lmaas-model", version.ref.encode()))
    exchange.send_json(
        Reranked(
            id=exchange.id,
            model=version.ref,
            results=[
                Result(
                    index=index,
                    relevance_score=scores[index],
                    document=Document(texts[index]) if request.return_documents else None,
                )
                for index in best
            ],
            usage=TextUsage(prompt_tokens=answer.tokens, total_tokens=answer.tokens),
        )
    )
