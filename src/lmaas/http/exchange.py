"""One HTTP exchange: a request, its body read within bounds, and its answer."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from lmaas.errors import LMaaSError, PayloadTooLarge
from lmaas.http import compression
from lmaas.http.websocket import WebSocket
from lmaas.types import KeyRecord

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
CLIENT_GONE: Final = 499
"""What is counted for a request whose caller went away."""
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {CLIENT_GONE: "Client Gone"}
_PREFIX = f"req-{secrets.token_hex(6)}"
_numbers = itertools.count()


class Sender(Protocol):
    """What an exchange asks of its connection."""

    @property
    def draining(self) -> bool:
        """Whether connections end after their answer."""

    def want_more(self) -> None:
        """Read on."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    async def flowing(self) -> None:
        """Wait while the client has not read what was sent."""

    def answered(self, exchange: "Exchange") -> None:
        """The answer is written."""

    def switch(self, exchange: "Exchange", head: bytes) -> WebSocket:
        """Send the `head` of an answer after which a WebSocket follows."""


class Exchange:
    """A request and its answer. `key` is None on the open routes only.

    `headers` has the last value of each name; `pairs` all of them, names in lower case. `kept` is
    the body where a key was looked for in it.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        method: str,
        url: bytes,
        headers: list[tuple[bytes, bytes]],
        keep_alive: bool,
        http_1_1: bool = True,
    ) -> None:
        self.http_1_1 = http_1_1
        self.method = method
        self.url = url
        self.pairs = headers
        self.headers: dict[bytes, bytes] = dict(headers)
        self.keep_alive = keep_alive
        self.key: KeyRecord | None = None
        self.kept: bytes | None = None
        self.id = f"{_PREFIX}{next(_numbers):010x}"
        self.extra: list[tuple[bytes, bytes]] = []
        self.model = ""
        self.route = "none"
        self.status = CLIENT_GONE
        self.started = False
        self.complete = False
        self.received_bytes = 0
        self._chunked = True
        self._sender = sender
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._error: LMaaSError | None = None
        self._wake: asyncio.Future[None] | None = None

    @property
    def tenant(self) -> str:
        """The tenant that asks."""
        assert self.key is not None
        return self.key.tenant

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; never its query or a host."""
        return path_of(self.url)

    @property
    def query(self) -> dict[str, str]:
        """The target's query parameters."""
        _, _, query = self.url.partition(b"?")
        return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))

    # The request's body

    def feed(self, part: bytes) -> int:
        """A piece of the body has come; how many bytes wait for the handler."""
        self._parts.append(part)
        self.received_bytes += len(part)
        self._buffered += len(part)
        self._stir()
        return self._buffered

    def feed_end(self) -> None:
        """The body is all there."""
        self.complete = True
        self._stir()

    def fail(self, error: LMaaSError) -> None:
        """The body will not come: whoever waits for it gets `error`."""
        self._error = error
        self._stir()

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises PayloadTooLarge as soon as the limit is known to be passed."""
        if self.complete and b"content-encoding" not in self.headers:
            self._check_head(limit_bytes)
            if self.received_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return b"".join([part async for part in self.chunks(limit_bytes)])

    def chunks(self, limit_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes, decompressed; a slow reader slows the client down."""
        encoding = compression.encoding_of(self.headers.get(b"content-encoding", b""))
        parts = self._chunks(limit_bytes)
        return parts if encoding is None else compression.inflate(parts, encoding, limit_bytes)

    async def _chunks(self, limit_bytes: int) -> AsyncIterator[bytes]:
        self._check_head(limit_bytes)
        if not self.complete and self.headers.get(b"expect", b"").lower() == b"100-continue":
            self._sender.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self.received_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            while self._parts:
                part = self._parts.popleft()
                self._buffered -= len(part)
                yield part
            if self.complete:
                return
            if self._error is not None:
                raise self._error
            self._sender.want_more()
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _check_head(self, limit_bytes: int) -> None:
        if int(self.headers.get(b"content-length", b"0")) > limit_bytes:
            raise _too_large(limit_bytes)

    # The answer

    def send(self, body: bytes, *, status: int = 200, kind: bytes = JSON) -> None:
        """The whole answer, in one write."""
        self.started = True
        self.status = status
        if self._sender.draining:
            self.keep_alive = False
        self._sender.write(self.render(body, status, kind))
        self._sender.answered(self)

    def start(self, *, status: int = 200, kind: bytes = EVENTS) -> None:
        """Begin an answer whose length is not known yet; `push` its pieces, then `finish`."""
        self.started = True
        self.status = status
        self._chunked = self.http_1_1
        if self._sender.draining or not self._chunked:
            self.keep_alive = False
        length = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._sender.write(self._head(status, kind, length))

    def push(self, data: bytes) -> None:
        """A piece of the answer, sent now."""
        if self.method != "HEAD":
            self._sender.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def flowing(self) -> None:
        """Wait while the client has not read what was pushed."""
        await self._sender.flowing()

    def finish(self) -> None:
        """The end of an answer that `start` began."""
        if self._chunked and self.method != "HEAD":
            self._sender.write(b"0\r\n\r\n")
        self._sender.answered(self)

    def break_off(self) -> None:
        """End an answer that cannot be completed, so that the client sees that it is cut."""
        self.keep_alive = False
        self._sender.answered(self)

    @property
    def draining(self) -> bool:
        """Whether the server ends."""
        return self._sender.draining

    def switch(self, accept: bytes, protocol: bytes | None) -> WebSocket:
        """Open the WebSocket that was asked for; `accept` answers its challenge (RFC 6455, 4.2.2).

        Whoever calls it calls `hang_up` at the end.
        """
        self.started = True
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        self.keep_alive = False
        lines = [
            _status_line(self.status),
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %b\r\n" % accept,
            b"sec-websocket-protocol: %b\r\n" % protocol if protocol is not None else b"",
            b"x-request-id: %b\r\n" % self.id.encode(),
            *(b"%b: %b\r\n" % header for header in self.extra),
            b"\r\n",
        ]
        return self._sender.switch(self, b"".join(lines))

    def hang_up(self) -> None:
        """The WebSocket's handler has ended."""
        self._sender.answered(self)

    def send_json(self, value: Any, *, status: int = 200) -> None:
        """`value` as JSON."""
        self.send(msgspec.json.encode(value), status=status)

    def render(self, body: bytes, status: int, kind: bytes) -> bytes:
        """Status line, headers and body as they go over the wire."""
        length = b"" if status == HTTPStatus.NO_CONTENT else b"content-length: %d\r\n" % len(body)
        head = self._head(status, kind, length)
        return head if self.method == "HEAD" else head + body

    def _head(self, status: int, kind: bytes, length: bytes) -> bytes:
        lines = [
            _status_line(status),
            b"content-type: %b\r\n%bx-request-id: %b\r\n" % (kind, length, self.id.encode()),
            b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n",
            _date_line(),
            *(b"%b: %b\r\n" % header for header in self.extra),
            b"\r\n" if self.keep_alive and self.complete else b"connection: close\r\n\r\n",
        ]
        return b"".join(lines)


_paths: dict[bytes, str] = {}


def path_of(url: bytes) -> str:
    """The path of a request's target."""
    path = _paths.get(url)
    if path is None:
        raw = url.partition(b"?")[0]
        if raw.startswith((b"http://", b"https://")):
            raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
        path = unquote(raw.decode("latin-1"), errors="replace")
        if len(_paths) >= 4096:
            _paths.clear()
        _paths[url] = path
    return path


_lines: dict[int, bytes] = {}
_date = (0, b"")


def _date_line() -> bytes:
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = now, f"date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _date[1]


def _status_line(status: int) -> bytes:
    line = _lines.get(status)
    if line is None:
        line = _lines[status] = f"HTTP/1.1 {status} {_REASONS[status]}\r\n".encode()
    return line


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit_bytes} bytes.")
