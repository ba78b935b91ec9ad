"""Sends what was left for webhooks: at least once, with waits that grow, from the database.

Messages are signed as Standard Webhooks (1.0) says. No redirect is followed, no answer is read
but its status, and nothing inside is reached: the name is looked up for each attempt, and
connected is to the address that was checked.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

import lmaas
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.jobs.webhooks import SECRET_PREFIX, target_of
from lmaas.registry.schema import webhook_deliveries as deliveries
from lmaas.registry.schema import webhooks
from lmaas.registry.storage import Storage
from lmaas.serving.egress import EgressPolicy
from lmaas.serving.http_client import HttpClient
from lmaas.supervision import Supervisor

log = logging.getLogger(__name__)
DELAYS_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0)
"""Between attempts; after the last one a message is given up. Each is made up to a fifth longer,
so that receivers that were down together are not called together."""
JITTER: Final = 0.2
POLL_S: Final = 0.2
MAX_AT_ONCE: Final = 32
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 15.0
ATTEMPT_TIMEOUT_S: Final = 30.0
KEPT_S: Final = 30 * 86_400.0
"""So long can be seen what became of a message."""
TIDY_S: Final = 3600.0
GONE: Final = 410
MAX_ERROR_CHARS: Final = 300


class Deliverer:
    """Sends the messages of one home. One lives at a time: its server holds the home's lock."""

    def __init__(
        self,
        database: Storage,
        outside: EgressPolicy,
        *,
        http: bool,
        delays_s: Sequence[float] = DELAYS_S,
    ) -> None:
        self._database = database
        self._revision = database.watch("webhooks")
        self._egress = outside
        self._http = http
        self._delays_s = delays_s
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._work: asyncio.Task[None] | None = None

    def start(self, supervisor: Supervisor | None = None) -> None:
        """Begin to send."""
        self._work = (supervisor or Supervisor()).keep("webhooks", self._keep_working)

    async def close(self) -> None:
        """Stop; an attempt that is cut off is made again by the next server."""
        tasks = [task for task in (self._work, *self._sending.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep_working(self) -> None:
        tidied, seen, wake = 0.0, -1, 0.0
        while True:
            try:
                # Nothing becomes due but by a commit or by its time.
                version = self._revision()
                if version == seen and time.time() < wake:
                    await asyncio.sleep(POLL_S)
                    continue
                if time.monotonic() - tidied > TIDY_S or not tidied:
                    tidied = time.monotonic()
                    await asyncio.to_thread(self._tidy)
                due, wake = await asyncio.to_thread(self._due, tuple(self._sending))
                for row in due:
                    self._begin(row)
                # Only now: what could not be read, on a full disk, is read again.
                seen = version
            except LMaaSError as error:
                log.error("The messages of webhooks cannot be read or written: %s", error)
            await asyncio.sleep(POLL_S)

    def _begin(self, row: Any) -> None:
        """One message at a time to a webhook, so that a slow one holds up only itself."""
        if row.webhook not in self._sending and len(self._sending) < MAX_AT_ONCE:
            task = asyncio.create_task(self._attempt(row))
            self._sending[row.webhook] = task
            task.add_done_callback(lambda _: self._sending.pop(row.webhook))

    def _due(self, busy: Sequence[str]) -> tuple[Sequence[Any], float]:
        """The oldest message that is due for each webhook that is not being called, and when to
        look again though nothing changes.
        """
        # Beside min(), SQLite gives the other columns of the row that has it.
        first = sa.func.min(deliveries.c.next_at)
        query = (
            sa.select(deliveries, webhooks.c.url, webhooks.c.secret, first)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook)
            .where(deliveries.c.next_at <= time.time(), deliveries.c.webhook.not_in(busy))
            .group_by(deliveries.c.webhook)
            .order_by(first)
            .limit(MAX_AT_ONCE)
        )
        with self._database.read() as connection:
            next_at = connection.scalar(sa.select(sa.func.min(deliveries.c.next_at)))
            soonest = time.time() + TIDY_S
            return connection.execute(query).all(), min(soonest, next_at or soonest)

    def _tidy(self) -> None:
        old = deliveries.c.created_at < time.time() - KEPT_S
        with self._database.write() as connection:
            connection.execute(deliveries.delete().where(deliveries.c.next_at.is_(None), old))

    async def _attempt(self, row: Any) -> None:
        status, problem = None, None
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                status = await self._send(row)
        except TimeoutError:
            problem = f"No answer within {ATTEMPT_TIMEOUT_S:g} s."
        except LMaaSError as error:
            problem = error.message
        except Exception as error:
            log.exception("The message %s could not be sent", row.id)
            problem = type(error).__name__
        if status is not None and not 200 <= status < 300:
            told = "; redirects are not followed" if 300 <= status < 400 else ""
            problem = f"The receiver answered with status {status}{told}."
        with contextlib.suppress(LMaaSError):
            # Not noted, it is sent again: at least once.
            await asyncio.to_thread(self._note, row, problem, gone=status == GONE)

    async def _send(self, row: Any) -> int:
        """The status of the answer. Raises LMaaSError."""
        parts, target = target_of(row.url)
        if parts.scheme != "https" and not self._http:
            raise InvalidInput("A webhook's URL is https.", param="url")
        body = row.body.encode()
        client = HttpClient(
            f"{parts.scheme}://{parts.netloc}",
            max_connections=1,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            timeout_s=ANSWER_TIMEOUT_S,
            check=self._egress.check(str(parts.hostname)),
        )
        try:
            response = await client.post(target, headers(row.id, row.secret, body), body)
            status = response.status
            response.close()
        finally:
            client.close()
        return status

    def _note(self, row: Any, problem: str | None, *, gone: bool) -> None:
        attempts, now = row.attempts + 1, time.time()
        values: dict[str, Any] = {"attempts": attempts, "error": problem, "next_at": None}
        if problem is None:
            values["delivered_at"] = now
        else:
            values["error"] = problem[:MAX_ERROR_CHARS]
            if attempts <= len(self._delays_s) and not gone:
                wait = self._delays_s[attempts - 1]
                values["next_at"] = now + wait * (1 + JITTER * random.random())  # noqa: S311
            else:
                log.warning("The message %s to %s is given up: %s", row.id, row.webhook, problem)
        with self._database.write() as connection:
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(values))


def headers(
    message: str, secret: str, body: bytes, *, clock: Callable[[], float] = time.time
) -> bytes:
    """The head lines of a message, signed: HMAC-SHA256 of "id.timestamp.body"."""
    stamp = str(int(clock()))
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.new(key, b"%b.%b.%b" % (message.encode(), stamp.encode(), body), hashlib.sha256)
    lines = {
        "content-type": "application/json",
        "user-agent": f"lmaas/{lmaas.__version__}",
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signed.digest()).decode()}",
    }
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
