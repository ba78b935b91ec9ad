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

    The body is that of OpenAI's webhooks. They know training only: for other kinds it says the
    job's kind and name too. `job` is its row.
    """
    trains, now = job.kind == "train", time.time()
    kind = f"fine_tuning.job.{state}" if trains else f"job.{state}"
    data = {"id": job.id} if trains else {"id": job.id, "kind": job.kind, "name": job.name}
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
            "data": data,
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
