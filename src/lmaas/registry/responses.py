"""Answers that callers may ask for again and go on from: one row each, kept for 30 days.

A row is its tenant's and its key's: to every other key it does not exist. Writing is done by one
thread, after the answer was sent; what is not written yet is already found. Thread-safe.
"""

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import sqlalchemy as sa

from lmaas.errors import InvalidInput, LMaaSError, NotFound
from lmaas.generation_types import ChatMessage
from lmaas.registry.schema import responses
from lmaas.registry.storage import Storage
from lmaas.types import KeyRecord, Record

log = logging.getLogger(__name__)
KEPT_S = 30 * 24 * 3600.0
MAX_TURNS = 1000
"""So many stored turns a conversation is rebuilt from."""


class StoredResponse(Record, frozen=True, kw_only=True):
    """An answer as it was given, and the turns of its conversation that came with it.

    `response` and `input` are JSON as the caller reads it. `messages` are this turn's input and the
    model's answer; the turns before are those of the response `previous`.
    """

    id: str
    created_at: float
    previous: str | None
    response: msgspec.Raw
    input: tuple[msgspec.Raw, ...]
    messages: tuple[ChatMessage, ...]


_decoder = msgspec.json.Decoder(StoredResponse)


class Responses:
    """The stored answers of one home."""

    def __init__(self, database: Storage) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._unwritten: dict[str, tuple[str, str, StoredResponse]] = {}
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="responses")

    def save(self, key: KeyRecord, stored: StoredResponse) -> None:
        """Keep an answer. Returns at once; a failure to write is logged."""
        with self._lock:
            self._unwritten[stored.id] = (key.tenant, key.id, stored)
        self._writer.submit(self._write).add_done_callback(_tell)

    def load(self, key: KeyRecord, response_id: str) -> StoredResponse:
        """An answer that was given to this key. Raises NotFound."""
        with self._lock:
            found = self._unwritten.get(response_id)
        if found is not None and found[:2] == (key.tenant, key.id):
            return found[2]
        query = sa.select(responses.c.body).where(
            _owned(key, response_id), responses.c.expires_at > time.time()
        )
        with self._database.read() as connection:
            body = connection.scalar(query)
        if body is None:
            raise NotFound(f"There is no response {response_id[:100]!r}.", param="response_id")
        return _decoder.decode(body)

    def conversation(self, key: KeyRecord, response_id: str) -> tuple[ChatMessage, ...]:
        """All turns up to and with this answer. Raises InvalidInput when one is gone."""
        turns: list[tuple[ChatMessage, ...]] = []
        previous: str | None = response_id
        while previous is not None:
            try:
                stored = self.load(key, previous)
            except NotFound as error:
                raise InvalidInput(
                    error.message,
                    hint="Responses are kept for 30 days; send the conversation as input.",
                    param="previous_response_id",
                ) from None
            turns.append(stored.messages)
            previous = stored.previous
            if len(turns) > MAX_TURNS:
                raise InvalidInput(
                    f"The conversation has more than {MAX_TURNS} responses.",
                    param="previous_response_id",
                )
        return tuple(message for turn in reversed(turns) for message in turn)

    def delete(self, key: KeyRecord, response_id: str) -> None:
        """Forget an answer. Raises NotFound."""
        self._writer.submit(self._delete, key, response_id).result()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.shutdown()

    def _write(self) -> None:
        """All that waits, in one transaction."""
        with self._lock:
            waiting = list(self._unwritten.values())
        if not waiting:
            return
        rows = [
            {
                "id": stored.id,
                "tenant": tenant,
                "key_id": key_id,
                "created_at": stored.created_at,
                "expires_at": stored.created_at + KEPT_S,
                "body": msgspec.json.encode(stored).decode(),
            }
            for tenant, key_id, stored in waiting
        ]
        try:
            with self._database.write() as connection:
                connection.execute(responses.delete().where(responses.c.expires_at <= time.time()))
                connection.execute(responses.insert(), rows)
        finally:
            with self._lock:
                for _, _, stored in waiting:
                    del self._unwritten[stored.id]

    def _delete(self, key: KeyRecord, response_id: str) -> None:
        with self._database.write() as connection:
            gone = connection.execute(responses.delete().where(_owned(key, response_id)))
            if not gone.rowcount:
                raise NotFound(f"There is no response {response_id[:100]!r}.", param="response_id")


def _owned(key: KeyRecord, response_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        responses.c.id == response_id,
        responses.c.tenant == key.tenant,
        responses.c.key_id == key.id,
    )


def _tell(written: "Future[None]") -> None:
    error = written.exception()
    if isinstance(error, LMaaSError):
        log.error("A response could not be stored: %s", error)
    elif error is not None:
        log.error("A response could not be stored.", exc_info=error)
