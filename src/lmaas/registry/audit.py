"""Who changed what, and when: one row for each change, written with it, never changed after."""

import time

import sqlalchemy as sa

from lmaas.face_types import AuditLine
from lmaas.registry.schema import audit
from lmaas.registry.storage import Storage

MOST_DETAIL_CHARS = 1000


def note(
    connection: sa.Connection, tenant: str, key_id: str, action: str, object_: str, detail: str
) -> None:
    """Write a line into the transaction of the change."""
    connection.execute(
        audit.insert().values(
            tenant=tenant,
            key_id=key_id,
            at=time.time(),
            action=action,
            object=object_,
            detail=detail[:MOST_DETAIL_CHARS],
        )
    )


def lines(database: Storage, tenant: str, *, before: int | None, limit: int) -> list[AuditLine]:
    """The newest lines of a tenant, or those before a line's id, the newest first."""
    own = audit.c
    wanted = sa.select(own.id, own.at, own.key_id, own.action, own.object, own.detail).where(
        own.tenant == tenant
    )
    if before is not None:
        wanted = wanted.where(own.id < before)
    with database.read() as connection:
        rows = connection.execute(wanted.order_by(own.id.desc()).limit(limit)).all()
    return [AuditLine(**row._asdict()) for row in rows]
