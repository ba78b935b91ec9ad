"""Webhooks as their users see them: add, list, remove, and what became of what was sent.

Knows rows and addresses, sends nothing.
"""

import base64
import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final, get_args
from urllib.parse import SplitResult

import msgspec
import sqlalchemy as sa

from lmaas.errors import Conflict, InvalidInput, NotFound
from lmaas.job import Webhook, WebhookDelivery, WebhookEvent
from lmaas.jobs.rows import check_limit, text
from lmaas.registry.schema import webhook_deliveries, webhooks
from lmaas.registry.storage import Storage
from lmaas.serving.egress import EgressPolicy
from lmaas.serving.http_client import check_url

ALL: Final[tuple[WebhookEvent, ...]] = get_args(WebhookEvent)
MAX_WEBHOOKS: Final = 20
MAX_URL_CHARS: Final = 2048
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with


class Webhooks:
    """The webhooks of one home. Synchronous and thread-safe."""

    def __init__(self, database: Storage, outside: EgressPolicy, *, http: bool) -> None:
        self._database = database
        self._egress = outside
        self._http = http

    def add(
        self, tenant: str, url: str, events: Sequence[WebhookEvent] = ALL
    ) -> tuple[Webhook, str]:
        """A new webhook and, this one time, the secret that its messages are signed with.

        Raises InvalidInput for a URL that is none or leads inside, Conflict when there are too
        many.
        """
        parts = target_of(url)[0]
        if parts.scheme != "https" and not self._http:
            raise InvalidInput(
                "A webhook's URL is https.", hint="The setting webhook_http allows http.",
                param="url",
            )  # fmt: skip
        host = str(parts.hostname)
        # A name is no address: where it leads is looked at each time it is called.
        with contextlib.suppress(ValueError):
            self._egress.check(host)(host)
        if not events:
            raise InvalidInput(f"A webhook hears of some of {', '.join(ALL)}.", param="events")
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        made = Webhook(
            id=f"webhook-{secrets.token_hex(12)}",
            url=url,
            events=tuple(dict.fromkeys(events)),
            created_at=time.time(),
        )
        mine = webhooks.c.tenant == tenant
        with self._database.write() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(webhooks).where(mine))
            if int(count or 0) >= MAX_WEBHOOKS:
                raise Conflict(
                    f"There are {MAX_WEBHOOKS} webhooks already.", hint="Remove one.", param="url"
                )
            connection.execute(
                webhooks.insert().values(
                    id=made.id,
                    tenant=tenant,
                    url=url,
                    events=text(made.events),
                    secret=secret,
                    created_at=made.created_at,
                )
            )
        return made, secret

    def remove(self, tenant: str, webhook_id: str) -> Webhook:
        """End a webhook; what was on its way is not sent any more. Raises NotFound."""
        with self._database.write() as connection:
            row = _row(connection, tenant, webhook_id)
            connection.execute(webhooks.delete().where(webhooks.c.id == webhook_id))
        return _webhook(row)

    def deliveries(self, tenant: str, webhook_id: str, *, limit: int = 20) -> list[WebhookDelivery]:
        """What was and is to be sent, newest first. Raises NotFound."""
        check_limit(limit)
        query = (
            sa.select(webhook_deliveries)
            .where(webhook_deliveries.c.webhook == webhook_id)
            .order_by(webhook_deliveries.c.created_at.desc(), webhook_deliveries.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            _row(connection, tenant, webhook_id)
            rows = connection.execute(query).all()
        return [
            WebhookDelivery(
                id=row.id,
                type=row.type,
                created_at=row.created_at,
                attempts=row.attempts,
                next_at=row.next_at,
                delivered_at=row.delivered_at,
                error=row.error,
            )
            for row in rows
        ]

    def list(self, tenant: str) -> list[Webhook]:
        """The webhooks of `tenant`, oldest first, without their secrets."""
        query = sa.select(webhooks).where(webhooks.c.tenant == tenant)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(webhooks.c.created_at, webhooks.c.id)).all()
        return [_webhook(row) for row in rows]


def target_of(url: str) -> tuple[SplitResult, str]:
    """The parts of a webhook's URL, and what follows its host. Raises InvalidInput."""
    if len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"A URL has at most {MAX_URL_CHARS} characters.", param="url")
    base, mark, query = url.partition("?")
    if "#" in query or any(ord(char) <= 32 or ord(char) > 126 for char in query):
        raise InvalidInput("A webhook's URL has no fragment, blanks or such.", param="url")
    parts = check_url(base)
    return parts, f"{parts.path or '/'}{mark}{query}"


def _row(connection: sa.Connection, tenant: str, webhook_id: str) -> Any:
    row = connection.execute(
        sa.select(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.tenant == tenant)
    ).first()
    if row is None:
        raise NotFound(
            f"There is no webhook {webhook_id[:100]!r}.",
            hint="`lmaas webhooks list` shows what there is.",
            param="webhook",
        )
    return row


def _webhook(row: Any) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        events=msgspec.json.decode(row.events, type=tuple[WebhookEvent, ...]),
        created_at=row.created_at,
    )
