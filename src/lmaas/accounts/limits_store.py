"""Limits of keys and tenants and prices of models, as they are stored."""

import msgspec
import sqlalchemy as sa

from lmaas.accounts.records import FREE, NO_LIMITS, Limits, ModelPrice, Price
from lmaas.errors import InvalidInput, NotFound
from lmaas.registry.names import check_name
from lmaas.registry.schema import keys, limits, prices
from lmaas.registry.storage import Storage

AllLimits = dict[tuple[str, str], Limits]
AllPrices = dict[tuple[str, str], Price]


class LimitsStore:
    """The limits and prices of one home."""

    def __init__(self, database: Storage) -> None:
        self._database = database

    def load(self) -> tuple[AllLimits, AllPrices]:
        """All limits by tenant and key ("": the tenant), all prices by tenant and model."""
        with self._database.read() as connection:
            bounds = connection.execute(sa.select(limits)).all()
            costs = connection.execute(sa.select(prices)).all()
        return (
            {(row.tenant, row.key_id): _limits(row) for row in bounds},
            {(row.tenant, row.model): _price(row) for row in costs},
        )

    def limits(self, tenant: str, key_id: str | None) -> Limits:
        """The limits of a key, or (None) of the whole tenant. Raises NotFound for no such key."""
        with self._database.read() as connection:
            _check_key(connection, tenant, key_id)
            query = sa.select(limits).where(_of(tenant, key_id))
            row = connection.execute(query).one_or_none()
        return NO_LIMITS if row is None else _limits(row)

    def check(self, given: Limits) -> None:
        """Raises InvalidInput unless the limits fit together."""
        soft, hard = given.soft_budget_micro, given.budget_micro
        if soft is not None and hard is not None and soft > hard:
            raise InvalidInput(
                f"The soft budget {soft} is above the hard one {hard}.", param="soft_budget_micro"
            )
        if given.period != "none" and soft is None and hard is None:
            raise InvalidInput("A period needs a budget.", param="period")

    def set_limits(self, tenant: str, key_id: str | None, given: Limits) -> Limits:
        """Replace the limits of a key or tenant. Raises InvalidInput; NotFound: no such key."""
        self.check(given)
        with self._database.write() as connection:
            _check_key(connection, tenant, key_id)
            connection.execute(limits.delete().where(_of(tenant, key_id)))
            if given != NO_LIMITS:
                values = msgspec.structs.asdict(given)
                connection.execute(
                    limits.insert().values(tenant=tenant, key_id=key_id or "", **values)
                )
        return given

    def prices(self, tenant: str) -> list[ModelPrice]:
        """What the models of a tenant cost, by name; models without a price are free."""
        query = sa.select(prices).where(prices.c.tenant == tenant).order_by(prices.c.model)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [ModelPrice(model=row.model, price=_price(row)) for row in rows]

    def set_price(self, tenant: str, model: str, price: Price) -> ModelPrice:
        """What all versions of a model cost from now on; the model need not exist yet."""
        check_name(model)
        with self._database.write() as connection:
            connection.execute(
                prices.delete().where((prices.c.tenant == tenant) & (prices.c.model == model))
            )
            if price != FREE:
                values = msgspec.structs.asdict(price)
                connection.execute(prices.insert().values(tenant=tenant, model=model, **values))
        return ModelPrice(model=model, price=price)


def _of(tenant: str, key_id: str | None) -> sa.ColumnElement[bool]:
    return (limits.c.tenant == tenant) & (limits.c.key_id == (key_id or ""))


def _check_key(connection: sa.Connection, tenant: str, key_id: str | None) -> None:
    if key_id is None:
        return
    query = sa.select(keys.c.id).where((keys.c.id == key_id) & (keys.c.tenant == tenant))
    if connection.execute(query).one_or_none() is None:
        raise NotFound(f"No key {key_id!r}.", hint="`lmaas keys list` shows the ids.")


def _limits(row: sa.Row[tuple[object, ...]]) -> Limits:
    return Limits(**{name: row._mapping[name] for name in Limits.__struct_fields__})


def _price(row: sa.Row[tuple[object, ...]]) -> Price:
    return Price(**{name: row._mapping[name] for name in Price.__struct_fields__})
