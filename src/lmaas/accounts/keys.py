"""API keys: made once, stored only as a hash, checked in constant time, revoked at once.

A key is `sk-lmaas-<id>-<secret>`. The secret has 256 random bits, so one round of SHA-256 is
as good as a slow hash; the id finds the row without telling anything of the secret.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from typing import Any

import sqlalchemy as sa

from lmaas.errors import InvalidInput, NotFound, Unauthorized
from lmaas.registry.schema import keys
from lmaas.registry.store import Registry
from lmaas.types import KeyRecord, Scope

PREFIX = "sk-lmaas-"
KEY = re.compile(r"sk-lmaas-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
SCOPES: tuple[Scope, ...] = ("admin", "call")
_DUMMY = "0" * 64


class Keys:
    """The keys of one home. Thread-safe; sees what other processes change."""

    def __init__(self, registry: Registry) -> None:
        self._database = registry.database
        self.revision = self._database.watch("keys")
        self._lock = threading.Lock()
        self._seen = -1
        self._known: dict[str, tuple[KeyRecord, str]] = {}

    def create(self, tenant: str, name: str, scopes: tuple[Scope, ...]) -> tuple[KeyRecord, str]:
        """A new key and its text, which is not stored and cannot be shown again."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise InvalidInput(
                f"Scopes must be among {', '.join(SCOPES)}; received {list(scopes)}.",
                param="scopes",
            )
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise InvalidInput("A key's name has 1 to 100 printable characters.", param="name")
        record = KeyRecord(
            id=secrets.token_hex(6),
            tenant=tenant,
            name=name,
            scopes=scopes,
            created_at=time.time(),
        )
        text = f"{PREFIX}{record.id}-{secrets.token_urlsafe(32)}"
        with self._database.write() as connection:
            connection.execute(
                keys.insert().values(
                    id=record.id,
                    tenant=tenant,
                    name=name,
                    sha256=_hash(text),
                    scopes=",".join(scopes),
                    created_at=record.created_at,
                )
            )
        self._seen = -1
        return record, text

    def fresh(self) -> bool:
        """Whether `check` has what it needs in memory."""
        return self._seen == self.revision()

    def refresh(self) -> None:
        """Have what `check` needs in memory."""
        self._rows()

    def check(self, text: str) -> KeyRecord:
        """The key that `text` is. Raises Unauthorized, the same for every reason.

        Costs a hash and a look-up in memory; the rows are read again only after a commit.
        """
        self.refresh()
        return self.known(text)

    def known(self, text: str) -> KeyRecord:
        """The same as of the last `refresh`: it never waits for the database."""
        match = KEY.fullmatch(text)
        known = self._known.get(match.group(1)) if match else None
        record, stored = known or (None, _DUMMY)
        same = hmac.compare_digest(_hash(text), stored)
        if record is None or not same or record.revoked_at is not None:
            raise Unauthorized(
                "The API key is not valid.",
                hint="Send `Authorization: Bearer sk-lmaas-…`; `lmaas keys create` makes a key.",
            )
        return record

    def confirm(self, key_id: str) -> None:
        """Raises Unauthorized unless the key still counts, as of the last `refresh`."""
        known = self._known.get(key_id)
        if known is None or known[0].revoked_at is not None:
            raise Unauthorized("The API key was revoked.")

    def list(self, tenant: str) -> list[KeyRecord]:
        """All keys of a tenant, oldest first, revoked ones too."""
        records = [record for record, _ in self._rows().values() if record.tenant == tenant]
        return sorted(records, key=lambda record: record.created_at)

    def revoke(self, key_id: str) -> None:
        """End a key: the next request with it is refused. Raises NotFound."""
        with self._database.write() as connection:
            done = connection.execute(
                keys.update()
                .where((keys.c.id == key_id) & keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
            if not done.rowcount:
                raise NotFound(f"There is no live key {key_id!r}.", param="key")
        self._seen = -1

    def any(self) -> bool:
        """Whether a key that works exists."""
        return any(record.revoked_at is None for record, _ in self._rows().values())

    def _rows(self) -> dict[str, tuple[KeyRecord, str]]:
        revision = self.revision()
        with self._lock:
            if revision != self._seen:
                with self._database.read() as connection:
                    rows = connection.execute(sa.select(keys)).all()
                self._known = {row.id: (_record(row._mapping), row.sha256) for row in rows}
                self._seen = revision
            return self._known


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _record(row: Any) -> KeyRecord:
    scopes = tuple(scope for scope in SCOPES if scope in row["scopes"].split(","))
    return KeyRecord(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        scopes=scopes,
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
