"""HTTP/1.1 connections: heads, bodies, keep-alive, and clients that are slow, gone or too many.

Parsing is httptools'. One object a connection, one task a request, one write an answer: between the
socket and a handler there is nothing else, because for small models everything between is most of
what a request costs (docs/log.md). Knows no routes: it hands each request to `Shared.app`.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

import httptools
from wsproto.frame_protocol import CloseReason

from lmaas.errors import HeadTooLarge, InvalidInput, LMaaSError, TooSlow, Unavailable
from lmaas.http import errors
from lmaas.http.bounds import BOUNDS
from lmaas.http.exchange import Exchange
from lmaas.http.websocket import WebSocket

MIN_BODY_BYTES_PER_S: Final = 1024
KEEP_ALIVE_S: Final = 75.0
LINGER_S: Final = 2.0
"""How long the rest of a refused body is read and dropped: closing at once would reset the
connection before the client has read why."""
STUCK_WRITE_S: Final = 60.0

App = Callable[[Exchange], Coroutine[Any, Any, None]]


class Shared(Protocol):
    """What all connections of a server share."""

    app: App
    header_timeout_s: float
    max_connections: int
    open: "set[Connection]"
    draining: bool

    def left(self, connection: "Connection") -> None:
        """A connection has ended."""


class Connection(asyncio.Protocol):
    """One connection. Requests that a client sends ahead wait until the one before is answered."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._trailer_bytes = 0
        self._in_head = False
        self._running: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._again = False
        self._ahead: bytearray | None = None
        self._socket: WebSocket | None = None
        self._paused = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._since = self._loop.time()
        self._linger_until = 0.0
        self._stuck = (0, 0.0)
        self._served = False
        self._broken = False

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted, or turned away when there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        shared = self._shared
        if len(shared.open) >= shared.max_connections:
            error = Unavailable(
                f"{shared.max_connections} connections are open; no more are taken.",
                hint="Try again soon, or raise max_connections.",
            )
            self._refuse(error)
        shared.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came; the callbacks below do the rest."""
        if self._linger_until or self._broken:
            return
        if self._socket is not None:
            self._socket.received(data)
            return
        if self._ahead is not None:
            self._come_ahead(data)
            return
        if not self._in_head and self._reading is None and not self._running:
            self._since = self._loop.time()
        self._head_bytes += len(data)
        self._feed(data)
        if self._in_head and self._head_bytes > BOUNDS.head_bytes:
            self._refuse(_head_too_large())

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._reading is not None:
                # Another protocol than HTTP/1.1 was offered, and is not taken: the request's body
                # follows, and other requests. The parser would read neither.
                self._parser = httptools.HttpRequestParser(self)
                self._again = True
                self._feed(_same_body(self._reading) + rest)
                return
            # A WebSocket is asked for: no other request follows.
            last = self._waiting[-1] if self._waiting else self._running
            if last is not None:
                last.keep_alive = False
            self._ahead = bytearray()
            self._come_ahead(rest)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, LMaaSError):
                self._refuse(cause)
            else:
                self._refuse(InvalidInput(f"This is not an HTTP request: {error}."))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: what runs for it is cancelled."""
        self._waiting.clear()
        if self._task is not None and self._running is not None:
            self._task.cancel()
        if self._socket is not None:
            self._socket.lost()
        self._running = self._reading = None
        self._shared.left(self)

    # The parser's side

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if self._again:
            return
        self._url, self._headers, self._in_head = b"", [], True
        self._trailer_bytes = 0
        if self._running is not None or self._served:
            self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        if self._again:
            return
        self._url += url
        if len(self._url) > BOUNDS.head_bytes:
            raise _head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if self._again:
            return
        if self._in_head:
            if len(self._headers) >= BOUNDS.headers:
                raise HeadTooLarge(f"A request may have {BOUNDS.headers} headers.")
            self._headers.append((name.lower(), value))
            return
        # Nothing here reads a trailer.
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > BOUNDS.trailer_bytes:
            raise HeadTooLarge(f"Trailers may have {BOUNDS.trailer_bytes} bytes.")

    def on_headers_complete(self) -> None:
        """The head is there: the handler may start."""
        if self._again:
            self._again = False
            return
        self._in_head = False
        if len(self._url) + sum(len(n) + len(v) for n, v in self._headers) > BOUNDS.head_bytes:
            raise _head_too_large()
        exchange = Exchange(
            self,
            method=self._parser.get_method().decode("ascii", "replace"),
            url=self._url,
            headers=self._headers,
            keep_alive=self._parser.should_keep_alive(),
            http_1_1=self._parser.get_http_version() == "1.1",
        )
        self._reading = exchange
        self._since = self._loop.time()
        if self._running is None:
            self._start(exchange)
        else:
            if len(self._waiting) >= BOUNDS.pipelined:
                raise InvalidInput(f"{BOUNDS.pipelined} requests wait on this connection already.")
            self._waiting.append(exchange)
            self.hold()

    def on_body(self, part: bytes) -> None:
        """A piece of the body."""
        exchange = self._reading
        if exchange is not None and exchange.feed(part) > BOUNDS.body_buffer_bytes:
            self.hold()

    def on_message_complete(self) -> None:
        """The request is all there."""
        if self._reading is not None and self._parser.should_upgrade():
            asked = self._reading.headers.get(b"upgrade", b"").lower()
            if b"websocket" not in asked:
                return
        if self._reading is not None:
            self._reading.feed_end()
            if self._reading is self._running:
                # Its body is all here. Only who reads on sees that the client hangs up.
                self.want_more()
            self._reading = None
        self._served = True
        self._head_bytes = 0

    # The exchange's side

    def want_more(self) -> None:
        """The handler waits for more of the body."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def hold(self) -> None:
        """Read nothing for now."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send bytes; a client that is gone drops them."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        """The client reads more slowly than is sent."""
        self._flowing.clear()
        if self._socket is not None:
            self._socket.flows(False)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._flowing.set()
        if self._socket is not None:
            self._socket.flows(True)

    async def flowing(self) -> None:
        """Wait while the client has not read what was sent."""
        await self._flowing.wait()

    def answered(self, exchange: Exchange) -> None:
        """The answer to `exchange` was written: on to the next, or the end."""
        if self._running is not exchange:
            return
        self._running = self._task = None
        self._since = self._loop.time()
        if self._socket is not None:
            self._socket.close(CloseReason.NORMAL_CLOSURE)
            return
        if not exchange.complete or self._ahead:
            self._linger()
        elif not exchange.keep_alive or self._shared.draining:
            self.hang_up()
        elif self._waiting:
            self._start(self._waiting.popleft())
        if not self._waiting:
            self.want_more()

    def switch(self, exchange: Exchange, head: bytes) -> WebSocket:
        """Send the `head` of the answer to `exchange`; from here on this is a WebSocket."""
        assert self._running is exchange
        self.write(head)
        self._socket = WebSocket(self, self._loop)
        ahead, self._ahead = bytes(self._ahead or b""), None
        self.want_more()
        if self._transport is None or self._transport.is_closing():
            self._socket.lost()
        else:
            self._socket.received(ahead)
        return self._socket

    def hang_up(self) -> None:
        """End the connection after what was written."""
        if self._transport is not None:
            self._transport.close()

    @property
    def draining(self) -> bool:
        """Whether connections end after their answer."""
        return self._shared.draining

    # The server's side

    def check(self, now: float) -> None:
        """End what does not move: heads and bodies that dribble, answers that nobody reads."""
        transport, timeout_s = self._transport, self._shared.header_timeout_s
        if transport is None:
            return
        pending = transport.get_write_buffer_size()
        if not pending or pending != self._stuck[0]:
            self._stuck = (pending, now)
        elif now - self._stuck[1] > STUCK_WRITE_S:
            transport.abort()
            return
        if transport.is_closing():
            return
        if self._socket is not None:
            self._socket.check(now)
            return
        waited = now - self._since
        if self._linger_until:
            if now > self._linger_until:
                transport.abort()
        elif self._in_head and waited > timeout_s:
            self._refuse(_too_slow(f"a request's head within {timeout_s:g} s"))
        elif self._reading is not None and not self._paused:
            received = self._reading.received_bytes
            if waited > timeout_s and received < MIN_BODY_BYTES_PER_S * waited:
                self._reading.fail(_too_slow(f"at least {MIN_BODY_BYTES_PER_S} bytes/s of a body"))
        elif self._running is None and waited > (KEEP_ALIVE_S if self._served else timeout_s):
            transport.close()

    def close_if_idle(self, *, fresh: bool) -> None:
        """End the connection unless a request is in it; `fresh`: also if there was none yet."""
        if self._socket is not None:
            self._socket.close(CloseReason.GOING_AWAY, "The server ends.")
            return
        idle = self._running is None and not self._in_head and (fresh or self._served)
        if idle and not self._has_unread():
            self.hang_up()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _has_unread(self) -> bool:
        """Whether something has come that was not looked at yet. It would be lost by a reset."""
        if self._transport is None or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        self._task = self._loop.create_task(self._shared.app(exchange))

    def _come_ahead(self, data: bytes) -> None:
        """Keep what comes before the answer to a request to open a WebSocket."""
        assert self._ahead is not None
        self._ahead += data
        if len(self._ahead) > BOUNDS.ahead_bytes:
            self.hold()

    def _refuse(self, error: LMaaSError) -> None:
        """Answer what is no request, after the request before it, and hang up."""
        if self._linger_until or self._broken:
            return
        if self._running is not None:
            self._broken = True
            self._waiting.clear()
            self._running.keep_alive = False
            if self._reading is self._running:
                self._running.fail(error)
            return
        exchange = Exchange(self, method="GET", url=b"/", headers=[], keep_alive=False)
        body, kind = errors.body_of(error, "/")
        exchange.extra += errors.headers_of(error)
        self.write(exchange.render(body, errors.status_of(error), kind))
        self._linger()

    def _linger(self) -> None:
        self._linger_until = self._loop.time() + LINGER_S
        self._in_head, self._reading = False, None
        self.want_more()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()


def _same_body(exchange: Exchange) -> bytes:
    """A head after which a parser reads the body of this request."""
    kept = (b"content-length", b"transfer-encoding")
    lines = [b"%b: %b\r\n" % pair for pair in exchange.pairs if pair[0] in kept]
    return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines)


def _head_too_large() -> LMaaSError:
    return HeadTooLarge(f"A request's head may have {BOUNDS.head_bytes} bytes.")


def _too_slow(what: str) -> LMaaSError:
    return TooSlow(f"The client was too slow: expected {what}.")
