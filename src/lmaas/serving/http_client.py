"""A small HTTP/1.1 client: POST, kept connections, bodies read whole or as they come.

One object a connection and no task of its own: what an HTTP library does beside that costs about a
millisecond a request (docs/log.md). Follows no redirects, sends no cookies, takes no compressed
bodies. Knows nothing of what is sent.
"""

import asyncio
import contextlib
import ipaddress
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, cast
from urllib.parse import SplitResult, urlsplit

import httptools

from lmaas.errors import InvalidInput, TimedOut, Unavailable

MAX_HEAD_BYTES: Final = 65_536
MAX_BUFFER_BYTES: Final = 1 << 20
"""So much of a body waits for its reader; then the other side has to wait too."""
KEEP_IDLE_S: Final = 60.0
METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200")
)
"""Where clouds give their machines credentials, beside the link-local addresses."""


def check_url(url: str) -> SplitResult:
    """The parts of an http(s) URL without credentials, query or fragment. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!a} is no URL: {error}.", param="url") from None
    if any(ord(char) <= 32 or ord(char) > 126 for char in url):
        raise InvalidInput("A URL has no blanks, control or non-ASCII characters.", param="url")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidInput(
            f"A URL like https://host/v1 is needed; received {parts.scheme or 'no scheme'!r}.",
            param="url",
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            "A URL must not hold credentials.",
            hint="Put the key into an environment variable and name it with key_env.",
            param="url",
        )
    if parts.query or parts.fragment:
        raise InvalidInput("A base URL has no query and no fragment.", param="url")
    with contextlib.suppress(ValueError):
        check_address(parts.hostname)
    return parts


def check_address(text: str) -> None:
    """Refuse addresses that hand out a machine's credentials. Raises InvalidInput.

    ValueError when `text` is a name and no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address in METADATA:
        raise InvalidInput(f"Link-local and metadata addresses ({text}) are refused.", param="url")


class BrokenOff(Exception):
    """The connection ended before the response did. `started`: after a part of it had come."""

    def __init__(self, started: bool) -> None:
        super().__init__("the connection broke off")
        self.started = started


class HttpClient:
    """Connections to one origin, at most `max_connections`, used again while they live.

    `timeout_s` is how long the other side may be silent while it owes an answer. With
    `socket_path` it listens there, and the URL's host is only what it is called. `check` refuses
    addresses that the name leads to, by InvalidInput; connected is to one that it was shown.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int,
        connect_timeout_s: float,
        timeout_s: float,
        socket_path: str | None = None,
        check: Callable[[str], None] = check_address,
    ) -> None:
        parts = check_url(url)
        assert parts.hostname is not None
        own = socket_path is not None
        self.origin = parts.hostname if own else f"{parts.scheme}://{parts.netloc}"
        self.timeout_s = timeout_s
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._netloc = parts.netloc
        self._connect_timeout_s = connect_timeout_s
        self._socket_path = socket_path
        self._check = check
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: deque[Connection] = deque()
        self._free = asyncio.Semaphore(max_connections)
        self._open: set[Connection] = set()
        self._closed = False

    async def post(self, path: str, headers: bytes, body: bytes) -> "Response":
        """Send a body to `path` below the URL; the response once its head is there.

        `headers` are whole lines. Close the response or read it to its end. A request that a kept
        connection lost before any answer is sent once more. Raises Unavailable, TimedOut.
        """
        return await self._send(b"POST", path, headers, body)

    async def get(self, path: str, headers: bytes = b"") -> "Response":
        """As `post`, without a body."""
        return await self._send(b"GET", path, headers, b"")

    async def _send(self, method: bytes, path: str, headers: bytes, body: bytes) -> "Response":
        data = (
            b"%b %b%b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n"
            b"content-length: %d\r\n%b\r\n%b"
            % (
                method,
                self._path.encode(),
                path.encode(),
                self._netloc.encode(),
                len(body),
                headers,
                body,
            )
        )
        await self._free.acquire()
        try:
            connection = self._kept()
            if connection is not None:
                try:
                    return await connection.send(data)
                except BrokenOff as error:
                    if error.started:
                        raise self._broken() from None
            connection = await self._connect()
            try:
                return await connection.send(data)
            except BrokenOff:
                raise self._broken() from None
        except BaseException:
            self._free.release()
            raise

    def close(self) -> None:
        """End all connections now, and take no more requests."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()

    def trim(self, now: float) -> None:
        """Close connections that were idle for long."""
        while self._idle and now - self._idle[0].last_seen > KEEP_IDLE_S:
            self._idle.popleft().abort()

    def released(self, connection: "Connection", *, keep: bool) -> None:
        """A response is over; its connection may serve the next."""
        self._free.release()
        if keep:
            self._idle.append(connection)
        else:
            connection.abort()

    def lost(self, connection: "Connection") -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection.idle and connection in self._idle:
            self._idle.remove(connection)

    def _kept(self) -> "Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
        return None

    async def _connect(self) -> "Connection":
        if self._closed:
            raise Unavailable(f"{self.origin} is not asked any more.", hint="Send it again.")
        loop = asyncio.get_running_loop()
        problem: OSError | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._socket_path is not None:
                    _, connection = await loop.create_unix_connection(
                        lambda: Connection(self), self._socket_path
                    )
                    self._open.add(connection)
                    return connection
                found = await loop.getaddrinfo(self._host, self._port, type=1)
                for *_, address in found:
                    # Checked here too: a name may lead anywhere, another time elsewhere.
                    self._check(str(address[0]))
                for *_, address in found:
                    try:
                        _, connection = await loop.create_connection(
                            lambda: Connection(self),
                            str(address[0]),
                            self._port,
                            ssl=self._tls,
                            server_hostname=self._host if self._tls is not None else None,
                        )
                    except OSError as error:
                        problem = error
                    else:
                        self._open.add(connection)
                        return connection
        except TimeoutError:
            raise Unavailable(
                f"{self.origin} took no connection within {self._connect_timeout_s:g} s."
            ) from None
        except InvalidInput as error:
            raise Unavailable(f"{self.origin} is not called: {error.message}") from None
        except OSError as error:
            problem = error
        told = getattr(problem, "verify_message", None) or getattr(problem, "strerror", None)
        raise Unavailable(f"{self.origin} cannot be reached: {told or problem}.")

    def _broken(self) -> Unavailable:
        return Unavailable(f"{self.origin} closed the connection before it answered.")


class Response:
    """A response whose head is there. `headers` has names in lower case, the last value of each."""

    def __init__(self, connection: "Connection", status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._over = False

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises Unavailable when it breaks off or is larger than the limit."""
        parts, size = [], 0
        async for part in self.chunks():
            size += len(part)
            if size > limit_bytes:
                raise Unavailable(f"{self._connection.origin} answered with too many bytes.")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Unavailable, TimedOut; left early, the request ends."""
        connection = self._connection
        try:
            while True:
                data = connection.take()
                if data:
                    yield data
                elif connection.complete:
                    return
                else:
                    await connection.more()
        except BrokenOff:
            raise Unavailable(f"{connection.origin} broke off its answer.") from None
        finally:
            self.close()

    def close(self) -> None:
        """End the request: the connection goes, unless the body was read to its end."""
        if not self._over:
            # Once: the connection may serve another request from now on.
            self._over = True
            self._connection.done()


class Connection(asyncio.Protocol):
    """One connection, with at most one request on it."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._head_done = False
        self._parts: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = False
        self._broken = False
        self._keep = False
        self.complete = False
        self.idle = False
        self.last_seen = self._loop.time()

    @property
    def origin(self) -> str:
        """Where it leads to."""
        return self._client.origin

    @property
    def alive(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self.last_seen = self._loop.time()
        self._started = True
        if self.idle or self.complete:
            self.abort()
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break()
        if not self._head_done and self._head_bytes > MAX_HEAD_BYTES:
            self._break()
        if self._head_done or self._broken:
            self._stir()
        if self._buffered > MAX_BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side is gone."""
        if not self.complete and not self.idle:
            if self._head_done and error is None and self._ends_with_connection():
                self.complete = True
            else:
                self._broken = True
            self._stir()
        self._stop_timer()
        self._client.lost(self)

    # The parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there, unless it is one of those that announce another."""
        if self._parser.get_status_code() >= 200:
            self._head_done = True
        else:
            self._headers = {}

    def on_body(self, part: bytes) -> None:
        """A piece of the body."""
        self._parts.append(part)
        self._buffered += len(part)

    def on_message_complete(self) -> None:
        """The response is all there."""
        if self._head_done:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    # The client's side

    async def send(self, data: bytes) -> Response:
        """Send a request; the response once its head is there. Raises BrokenOff, TimedOut."""
        assert self._transport is not None
        self._headers, self._head_bytes, self._head_done = {}, 0, False
        self._parts, self._buffered = [], 0
        self._started = self.complete = self.idle = self._keep = False
        self.last_seen = self._loop.time()
        self._timer = self._loop.call_later(self._client.timeout_s, self._check)
        self._transport.write(data)
        try:
            while not self._head_done:
                await self.more()
        except BaseException:
            self._stop_timer()
            self.abort()
            raise
        return Response(self, self._parser.get_status_code(), self._headers)

    def take(self) -> bytes:
        """What of the body has come since the last time."""
        parts = self._parts
        if not parts:
            return b""
        self._parts, self._buffered = [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def more(self) -> None:
        """Wait until something comes. Raises BrokenOff, TimedOut."""
        self._raise_if_broken()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._raise_if_broken()

    def done(self) -> None:
        """Nobody reads on: into the pool, or away."""
        self.idle = True
        self._stop_timer()
        self._client.released(self, keep=self.complete and self._keep and self.alive)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _check(self) -> None:
        """Whether the other side was silent for too long."""
        silent = self._loop.time() - self.last_seen
        left = self._client.timeout_s - silent
        if left > 0 or self._paused:
            self._timer = self._loop.call_later(max(left, 0.1), self._check)
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(
                TimedOut(f"{self.origin} sent nothing for {self._client.timeout_s:g} s.")
            )

    def _raise_if_broken(self) -> None:
        if self._broken and not self._parts and not self.complete:
            raise BrokenOff(self._started)

    def _ends_with_connection(self) -> bool:
        framed = (b"content-length", b"transfer-encoding")
        return not any(name in self._headers for name in framed)

    def _break(self) -> None:
        self._broken = True
        self.abort()

    def _stir(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
