"""What is to be told of a job's end, written in the transaction that ends it.

Knows rows; who sends what is written is `lmaas.jobs.delivery`.
"""

import secrets
import time
from typing import Any

import msgspec
import sqlalchemy as sa

from lmaas.jobs.rows import text
from lmaas.registry.schema import webhook_deliveries, webhooks


def announce(connection: sa.Connection, job: Any, state: str) -> None:
    """Leave word for each webhook of a job's tenant that wants to hear that it is in `state`.

    The body is that of OpenAI's webhooks, which know training only. `job` is its row.
    """
    if job.kind != "train":
        return
    kind, now = f"fine_tuning.job.{state}", time.time()
    wanting = connection.execute(
        sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.tenant == job.tenant)
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
            "data": {"id": job.id},
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
