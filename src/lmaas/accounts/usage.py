"""The table of usage: rows written once each, and sums over them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lmaas.accounts.journal import UsageEntry
from lmaas.accounts.limits import DAY_S
from lmaas.accounts.records import UsageReport, UsageRow
from lmaas.errors import InvalidInput
from lmaas.registry.schema import usage
from lmaas.registry.storage import Storage

GROUPS = ("key", "model", "day")
_COLUMNS = ", ".join(UsageEntry._fields)
_INSERT = (
    f"INSERT OR IGNORE INTO usage ({_COLUMNS}) "  # noqa: S608 - names of our own columns
    f"VALUES ({', '.join('?' * len(UsageEntry._fields))})"
)


def insert(database: Storage, rows: Sequence[UsageEntry]) -> None:
    """Write `rows`; a request that has its row already keeps it. Raises StorageFull."""
    if rows:
        with database.write() as connection:
            connection.exec_driver_sql(_INSERT, [tuple(row) for row in rows])


def spent(connection: sa.Connection, tenant: str, key_id: str, start: float, end: float) -> int:
    """Millionths that were spent from `start` to before `end`; `key_id` "": by all keys."""
    query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.cost_micro), 0)).where(
        usage.c.tenant == tenant, usage.c.started_at >= start, usage.c.started_at < end
    )
    if key_id:
        query = query.where(usage.c.key_id == key_id)
    return int(connection.execute(query).scalar_one())


def report(
    database: Storage,
    tenant: str,
    *,
    start: str | None = None,
    end: str | None = None,
    by: Iterable[str] = (),
    key_id: str | None = None,
    today: date | None = None,
) -> UsageReport:
    """Sums from day `start` to day `end`, both included; default: this UTC month until today.

    Raises InvalidInput for a date or a grouping that is none.
    """
    groups = _groups(by)
    today = today or datetime.now(UTC).date()
    last = _day(end, "end") if end else today
    first = _day(start, "start") if start else min(today.replace(day=1), last)
    if first > last:
        raise InvalidInput(f"start is after end: {first}, {last}.", param="start")
    day = sa.cast(sa.func.floor(usage.c.started_at / DAY_S), sa.Integer)
    columns = {"key": usage.c.key_id, "model": usage.c.model, "day": day}
    keys = [columns[group].label(group) for group in groups]
    query = sa.select(
        *keys,
        sa.func.coalesce(sa.func.sum(usage.c.requests), 0).label("requests"),
        _count("failed"),
        _count("cancelled"),
        *(
            sa.func.coalesce(sa.func.sum(usage.c[name]), 0).label(name)
            for name in (
                "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens",
                "audio_ms", "cost_micro", "duration_ms",
            )
        ),
    ).where(
        usage.c.tenant == tenant,
        usage.c.started_at >= _seconds(first),
        usage.c.started_at < _seconds(last + timedelta(days=1)),
    )  # fmt: skip
    if key_id is not None:
        query = query.where(usage.c.key_id == key_id)
    if keys:
        query = query.group_by(*keys).order_by(*keys)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return UsageReport(
        start=first.isoformat(),
        end=last.isoformat(),
        data=tuple(_row(dict(row._mapping)) for row in rows),
    )


def _groups(by: Iterable[str]) -> list[str]:
    asked = list(by)
    for group in asked:
        if group not in GROUPS:
            raise InvalidInput(
                f"Usage is grouped by {', '.join(GROUPS)}; received {group!r}.", param="group_by"
            )
    return [group for group in GROUPS if group in asked]


def _count(status: str) -> sa.Label[int]:
    found = sa.case((usage.c.status == status, usage.c.requests), else_=0)
    return sa.func.coalesce(sa.func.sum(found), 0).label(status)


def _row(columns: Mapping[str, Any]) -> UsageRow:
    fields = dict(columns)
    if "day" in fields:
        fields["day"] = (date(1970, 1, 1) + timedelta(days=int(fields["day"]))).isoformat()
    fields["audio_s"] = int(fields.pop("audio_ms")) / 1000
    fields["duration_ms"] = round(float(fields["duration_ms"]), 3)
    return UsageRow(**fields)


def _day(text: str, param: str) -> date:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        day = date.min
    if not date(1970, 1, 1) <= day < date.max:
        raise InvalidInput(f"{param} is a day such as 2030-12-31; received {text!r}.", param=param)
    return day


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
