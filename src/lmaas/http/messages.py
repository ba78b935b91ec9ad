"""POST /v1/messages and /v1/messages/count_tokens in Anthropic's shape."""

import msgspec

from lmaas.http import sse
from lmaas.http.body import read
from lmaas.http.collect import collect
from lmaas.http.exchange import Exchange
from lmaas.http.messages_answer import MessageWriter, TokenCount, message
from lmaas.http.messages_body import CountBody, MessagesBody, to_request
from lmaas.http.reasoning import check_reasoning
from lmaas.service import Service

_decoder = msgspec.json.Decoder(MessagesBody)
_count_decoder = msgspec.json.Decoder(CountBody)


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Continue a conversation: Anthropic's messages, streamed or whole."""
    body = await read(service, exchange, _decoder)
    request = to_request(body)
    if request.template.get("enable_thinking"):
        check_reasoning(await service.find(exchange.tenant, body.model), "thinking")
    generation = await sse.begin(service, exchange, body.model, request, "messages", body.cache)
    silent = body.thinking is not None and body.thinking.display == "omitted"
    if request.stream:
        writer = MessageWriter(
            id=exchange.id, model=body.model, prompt=generation.usage, silent=silent
        )
        await sse.send(exchange, generation, writer)
        return
    (choice,) = await collect(generation)
    answer = message(
        id=exchange.id, model=body.model, choice=choice, usage=generation.usage, silent=silent
    )
    exchange.send(sse.encode(answer))


async def count_tokens(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """How many tokens a conversation has for a model, template and tools included."""
    assert exchange.key is not None
    body = await read(service, exchange, _count_decoder)
    request = to_request(body)
    counted = await service.calls.count_tokens(
        exchange.key,
        body.model,
        request,
        endpoint="messages.count_tokens",
        request_id=exchange.id,
    )
    exchange.model = counted.version.ref
    exchange.extra += counted.headers
    exchange.extra.append((b"x-lmaas-model", counted.version.ref.encode()))
    exchange.send(sse.encode(TokenCount(counted.tokens)))
