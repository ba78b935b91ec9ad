"""Webhooks: who is told when a job ends; every route needs the scope admin."""

from lmaas.codecs.json import read
from lmaas.http.exchange import Exchange
from lmaas.http.jobs import number
from lmaas.job import Webhook, WebhookEvent
from lmaas.jobs.webhooks import ALL
from lmaas.service import Service
from lmaas.types import Record

MAX_BODY_BYTES = 65_536
DELIVERIES_QUERY = ("limit",)


class WebhookBody(Record, frozen=True, kw_only=True):
    """Where events are to be sent to, and which."""

    url: str
    events: tuple[WebhookEvent, ...] = ALL


class NewWebhook(Record, frozen=True, kw_only=True):
    """A webhook that was made, and the secret of its signatures, which is told this once."""

    webhook: Webhook
    secret: str


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The webhooks."""
    exchange.send_json(await service.read(service.webhooks.list, exchange.tenant))


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Tell a URL of the ends of jobs, signed as Standard Webhooks says."""
    body = read(await exchange.body(MAX_BODY_BYTES), WebhookBody)
    webhook, secret = await service.write(
        service.webhooks.add, exchange.tenant, body.url, body.events
    )
    exchange.send_json(NewWebhook(webhook=webhook, secret=secret), status=201)


async def delete(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """End a webhook; what was on its way is not sent any more."""
    exchange.send_json(await service.write(service.webhooks.remove, exchange.tenant, path["id"]))


async def deliveries(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What was and is to be sent, newest first."""
    limit = number(exchange, "limit", 20)
    exchange.send_json(
        await service.read(service.webhooks.deliveries, exchange.tenant, path["id"], limit=limit)
    )
