"""OpenAI's responses: made, streamed, stored, read again, gone on from and deleted."""

import asyncio
import time
from typing import Any

import msgspec

from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage
from lmaas.http import sse
from lmaas.http.body import read
from lmaas.http.exchange import Exchange
from lmaas.http.reasoning import check_reasoning
from lmaas.http.responses_answer import (
    CallItem,
    Deleted,
    ItemList,
    MessageItem,
    ReasoningItem,
    Response,
    started,
)
from lmaas.http.responses_body import Item, ResponsesBody, read_input, to_request
from lmaas.http.responses_writer import ResponseWriter
from lmaas.registry.responses import StoredResponse
from lmaas.service import Service

PAGE = 20
MAX_PAGE = 100
NAMES = {"messages": "input", "response_format": "text.format"}
"""Fields of this route that chat completions name otherwise."""
_decoder = msgspec.json.Decoder(ResponsesBody)


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Answer an input: OpenAI's responses, streamed or whole, stored unless `store` is false."""
    assert exchange.key is not None
    body = await read(service, exchange, _decoder)
    earlier: tuple[ChatMessage, ...] = ()
    if body.previous_response_id is not None:
        earlier = await asyncio.to_thread(
            service.responses.conversation, exchange.key, body.previous_response_id
        )
    given = read_input(body.input)
    try:
        request = to_request(body, earlier, given)
        if request.template.get("enable_thinking"):
            check_reasoning(await service.find(exchange.tenant, body.model), "reasoning")
        generation = await sse.begin(
            service, exchange, body.model, request, "responses", body.cache
        )
    except InvalidInput as error:
        error.param = NAMES.get(error.param or "", error.param)
        raise
    response = started(body, f"resp_{exchange.id}", time.time())
    writer = ResponseWriter(
        response,
        exchange.id,
        logprobs=bool(body.include),
        keep=lambda whole: _store(service, exchange, body, given, whole),
    )
    if request.stream:
        await sse.send(exchange, generation, writer)
        return
    try:
        async for delta in generation:
            writer.piece(delta)
    finally:
        generation.close()
    writer.end(generation.usage)
    exchange.send(sse.encode(writer.response))


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A stored response, for the key that made it."""
    exchange.send(bytes((await _load(service, exchange, path)).response))


async def delete(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Forget a stored response; what goes on from it can no longer be continued."""
    assert exchange.key is not None
    await asyncio.to_thread(service.responses.delete, exchange.key, path["id"])
    exchange.send_json(Deleted(id=path["id"]))


async def input_items(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The items of a stored response's own input, newest first unless `order` is asc."""
    query = exchange.query
    order = query.get("order", "desc")
    limit = query.get("limit", str(PAGE))
    if order not in ("asc", "desc"):
        raise InvalidInput(f"order is asc or desc; received {order[:100]!r}.", param="order")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_PAGE:
        raise InvalidInput(f"limit is 1 to {MAX_PAGE}; received {limit[:100]!r}.", param="limit")
    stored = await _load(service, exchange, path)
    items: list[dict[str, Any]] = [msgspec.json.decode(item) for item in stored.input]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    after = query.get("after")
    if after is not None:
        if after not in ids:
            raise InvalidInput(f"There is no item {after[:100]!r}.", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[: int(limit)]
    exchange.send_json(
        ItemList(
            data=page,
            first_id=page[0]["id"] if page else None,
            last_id=page[-1]["id"] if page else None,
            has_more=len(items) > len(page),
        )
    )


async def _load(service: Service, exchange: Exchange, path: dict[str, str]) -> StoredResponse:
    assert exchange.key is not None
    return await asyncio.to_thread(service.responses.load, exchange.key, path["id"])


def _store(
    service: Service,
    exchange: Exchange,
    body: ResponsesBody,
    given: tuple[ChatMessage, ...],
    response: Response,
) -> None:
    if not response.store:
        return
    assert exchange.key is not None
    stored = StoredResponse(
        id=response.id,
        created_at=response.created_at,
        previous=response.previous_response_id,
        response=msgspec.Raw(sse.encode(response)),
        input=tuple(msgspec.Raw(sse.encode(item)) for item in shown_input(body.input, exchange.id)),
        messages=(*given, answer_of(response)),
    )
    service.responses.save(exchange.key, stored)


def answer_of(response: Response) -> ChatMessage:
    """The model's turn, as the next one's conversation has it."""
    texts = [p.text for i in response.output if isinstance(i, MessageItem) for p in i.content]
    thoughts = [p.text for i in response.output if isinstance(i, ReasoningItem) for p in i.content]
    return ChatMessage(
        role="assistant",
        content="".join(texts),
        reasoning="".join(thoughts) or None,
        tool_calls=tuple(i.call() for i in response.output if isinstance(i, CallItem)),
    )


def shown_input(given: str | tuple[Item, ...], exchange_id: str) -> list[dict[str, Any]]:
    """An input's items as `input_items` lists them: each with an id, texts as parts."""
    items = (Item(role="user", content=given),) if isinstance(given, str) else given
    shown = []
    for number, item in enumerate(items):
        fields = {
            name: value for name, value in msgspec.structs.asdict(item).items() if value is not None
        }
        content = fields.get("content")
        if isinstance(content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            part: dict[str, Any] = {"type": kind, "text": content}
            if kind == "output_text":
                part["annotations"] = []
            fields["content"] = [part]
        elif content is not None:
            fields["content"] = [
                {k: v for k, v in msgspec.structs.asdict(part).items() if v is not None}
                for part in content
            ]
        fields.setdefault("id", f"in_{exchange_id}-{number}")
        fields.setdefault("status", "completed")
        shown.append(fields)
    return shown
