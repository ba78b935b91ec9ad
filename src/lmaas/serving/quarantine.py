"""Requests that killed two workers, remembered for a while so that they are refused at once."""

import hashlib
import time
from typing import Final

import msgspec

from lmaas.errors import Quarantined
from lmaas.types import Payload

KEEP_S: Final = 3600.0
KEEP_MOST: Final = 1024


class Quarantine:
    """Payload digests by tenant and model. While it is empty, a check costs nothing."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, bytes], float] = {}

    def add(self, tenant: str, model: str, payload: Payload) -> Quarantined:
        """Remember the payload; gives back the error that its caller gets."""
        while len(self._until) >= KEEP_MOST:
            del self._until[next(iter(self._until))]
        self._until[tenant, model, _digest(payload)] = time.monotonic() + KEEP_S
        return _error(model)

    def check(self, tenant: str, model: str, payload: Payload) -> None:
        """Raises Quarantined for a payload that was added within the last hour."""
        if not self._until:
            return
        key = tenant, model, _digest(payload)
        until = self._until.get(key)
        if until is None:
            return
        if time.monotonic() < until:
            raise _error(model)
        del self._until[key]


def _digest(payload: Payload) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(payload)).digest()


def _error(model: str) -> Quarantined:
    return Quarantined(
        f"This request ended two workers of {model}; it is not run again.",
        hint="Send other input, and tell the operator: the server's log names the crash.",
    )
