"""What is to be told of a job's end, written in the transaction that ends it.

Knows rows; who sends what is written is `lmaas.jobs.delivery`.
"""

import secrets
import time

import msgspec
import sqlalchemy as sa

from lmaas.jobs.rows import text
from lmaas.registry.schema import webhook_deliveries, webhooks


def announce(connection: sa.Connection, tenant: str, job_id: str, state: str) -> None:
    """Leave word for each webhook of `tenant` that wants to hear that a job is in `state`.

    The body is that of OpenAI's webhooks.
    """
    kind, now = f"fine_tuning.job.{state}", time.time()
    wanting = connection.execute(
        sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.tenant == tenant)
    )
    for webhook in wanting.all():
        if kind not in msgspec.json.decode(webhook.events):
            continue
        event = f"evt_{secrets.token_hex(12)}"
        body = {
            "object": "event",
            "id": event,
            "type": kind,
            "created_at": int(now),
            "data": {"id": job_id},
        }
        connection.execute(
            webhook_deliveries.insert().values(
                id=event,
                webhook=webhook.id,
                type=kind,
                body=text(body),
                created_at=now,
                attempts=0,
                next_at=now,
            )
        )
