"""What was used, what may be used, and what it costs."""

from lmaas.accounts.records import Limits, ModelPrice, Price
from lmaas.codecs.json import read
from lmaas.errors import Forbidden
from lmaas.http.exchange import Exchange
from lmaas.service import Service

MAX_BODY_BYTES = 65_536
QUERY = ("start", "end", "group_by", "key")


async def usage(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Requests, tokens and money by any of key, model and day (`group_by=model,day`).

    `start` and `end` are UTC days, both included; default: this month until today. A key without
    the scope admin sees its own rows only; `key` asks for those of one key.
    """
    assert exchange.key is not None
    query, key_id = exchange.query, exchange.query.get("key")
    if "admin" not in exchange.key.scopes:
        if key_id not in (None, exchange.key.id):
            raise Forbidden(
                f"The key {exchange.key.id} may only see its own usage.",
                hint="Leave `key` out, or ask with a key of the scope admin.",
            )
        key_id = exchange.key.id
    report = await service.usage(
        exchange.tenant,
        start=query.get("start"),
        end=query.get("end"),
        by=[group for group in query.get("group_by", "").split(",") if group],
        key_id=key_id,
    )
    exchange.send_json(report)


async def limits(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The limits of a key, or of all keys of the tenant together."""
    exchange.send_json(await service.read(service.limits, exchange.tenant, path.get("id")))


async def set_limits(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Replace the limits of a key, or of all keys of the tenant together; what is left out ends."""
    given = read(await exchange.body(MAX_BODY_BYTES), Limits)
    exchange.send_json(
        await service.write(service.set_limits, exchange.tenant, path.get("id"), given)
    )


async def prices(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What the models cost; those that are not named are free."""
    exchange.send_json(await service.read(service.prices, exchange.tenant))


async def set_price(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What all versions of a model cost from now on; an empty price makes it free."""
    price = read(await exchange.body(MAX_BODY_BYTES), Price)
    told: ModelPrice = await service.write(service.set_price, exchange.tenant, path["model"], price)
    exchange.send_json(told)
