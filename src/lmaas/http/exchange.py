"""One HTTP exchange: its body read within bounds, its answer sent, its disconnect noticed."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from lmaas.errors import Cancelled, InvalidInput, PayloadTooLarge
from lmaas.types import KeyRecord

T = TypeVar("T")
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
JSON = b"application/json"


class Exchange:
    """A request and its answer. `key` is None on the open routes only."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.key: KeyRecord | None = None
        self.id = f"req-{secrets.token_hex(12)}"
        self.extra: list[tuple[bytes, bytes]] = []
        self.started = False
        self.model = ""
        self.route = "none"
        self.status = 499
        self._receive = receive
        self._send = send

    @property
    def tenant(self) -> str:
        """The tenant that asks."""
        assert self.key is not None
        return self.key.tenant

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises PayloadTooLarge as soon as the limit is known to be passed."""
        if self.headers.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidInput("Compressed bodies are not accepted.", param="Content-Encoding")
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit_bytes:
            raise _too_large(limit_bytes)
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("The caller went away while sending.")
            part = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the caller disconnects."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Cancelled("The caller went away.")
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, body: bytes, *, status: int = 200, kind: bytes = JSON) -> None:
        """The whole answer."""
        self.started = True
        self.status = status
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self.id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *self.extra,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send(
            {"type": "http.response.body", "body": b"" if self.method == "HEAD" else body}
        )

    async def send_json(self, value: Any, *, status: int = 200) -> None:
        """`value` as JSON."""
        await self.send(msgspec.json.encode(value), status=status)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit_bytes} bytes.")
