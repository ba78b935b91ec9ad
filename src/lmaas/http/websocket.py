"""One WebSocket (RFC 6455): messages in and out, and a peer that floods, lies, sleeps or is gone.

Frames are wsproto's to read and write; nothing is compressed. What waits is bounded: beyond it,
nothing more is read, so that the peer has to wait too. Knows no routes and no keys.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason

from lmaas.http.bounds import SOCKET_BOUNDS, SocketBounds

REASON_BYTES: Final = 120
"""What a close frame has room for."""


class SocketClosed(Exception):
    """The WebSocket is closed, by whom ever; `code` is RFC 6455's (section 7.4)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class Link(Protocol):
    """What a WebSocket asks of its connection."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def want_more(self) -> None:
        """Read on."""

    def hold(self) -> None:
        """Read nothing for now."""

    async def flowing(self) -> None:
        """Wait while the peer has not read what was sent."""

    def hang_up(self) -> None:
        """End the connection after what was written."""

    def abort(self) -> None:
        """End the connection at once."""


class WebSocket:
    """The server's end. `receive` and `send` are for one handler; the rest is the connection's."""

    def __init__(
        self, link: Link, loop: asyncio.AbstractEventLoop, bounds: SocketBounds = SOCKET_BOUNDS
    ) -> None:
        self._link, self._loop, self._bounds = link, loop, bounds
        self._frames = Connection(ConnectionType.SERVER)
        self._messages: deque[tuple[str | bytes, int]] = deque()
        self._waiting_bytes = 0
        self._parts: list[str | bytes] = []
        self._part_bytes = 0
        self._flows = True
        self._held = False
        self._over: SocketClosed | None = None
        self._unread = False
        self._gone = False
        self._end_by = 0.0
        self._woken = asyncio.Event()
        self._closed = asyncio.Event()
        self._heard = self._last_message = self._counted = loop.time()
        self._pinged = 0.0
        self._allowance = float(bounds.frames_per_s)

    # The handler's side

    async def receive(self) -> str | bytes:
        """The next message, a text or bytes. Raises SocketClosed once there are no more."""
        while not self._messages:
            if self._over is not None:
                raise self._over
            self._woken.clear()
            await self._woken.wait()
        message, size_bytes = self._messages.popleft()
        self._waiting_bytes -= size_bytes
        if self._held:
            self._work()
        return message

    async def closed(self) -> None:
        """Wait until nothing more is sent. Raises SocketClosed then."""
        await self._closed.wait()
        assert self._over is not None
        raise self._over

    async def send(self, text: str) -> None:
        """Send a text, and wait while the peer does not read. Raises SocketClosed."""
        if self._over is not None:
            raise self._over
        self._write(events.TextMessage(data=text))
        await self._link.flowing()

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye; the connection ends when the peer has answered, or soon without it."""
        if self._frames.state is ConnectionState.OPEN and not self._gone:
            told = reason.encode()[:REASON_BYTES].decode(errors="ignore")
            self._write(events.CloseConnection(code=code, reason=told))
            self._end_by = self._loop.time() + self._bounds.close_s
            self._link.want_more()
        self._ended(SocketClosed(code, reason))

    # The connection's side

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        self._heard = self._loop.time()
        if self._unread or self._frames.state not in (
            ConnectionState.OPEN,
            ConnectionState.LOCAL_CLOSING,
        ):
            return  # What follows nonsense or a goodbye is dropped until the connection ends.
        self._frames.receive_data(data)
        self._work()

    def flows(self, flows: bool) -> None:
        """Whether the peer reads what is sent. Of one that does not, nothing is read either."""
        self._flows = flows
        if flows and self._held:
            self._work()

    def lost(self) -> None:
        """The connection has ended."""
        self._gone = True
        self._ended(SocketClosed(CloseReason.ABNORMAL_CLOSURE, "The connection was lost."))

    def check(self, now: float) -> None:
        """End what does not move: called every half second or so."""
        bounds = self._bounds
        if self._end_by:
            if now > self._end_by:
                self._link.abort()
        elif self._held:
            self._heard = now  # An answer to a ping may wait unread.
            self._work()
        elif now - self._last_message > bounds.idle_s:
            idle = f"No message came for {bounds.idle_s:g} s."
            self.close(CloseReason.POLICY_VIOLATION, idle)
        elif now - self._heard > bounds.ping_s:
            if not self._pinged:
                self._pinged = now
                self._write(events.Ping())
            elif now - self._pinged > bounds.ping_s:
                self.close(CloseReason.INTERNAL_ERROR, "No answer came to a ping.")

    # Frames

    def _work(self) -> None:
        """Take the frames that have come, as many as may be taken now."""
        now, most = self._loop.time(), float(self._bounds.frames_per_s)
        gained = (now - self._counted) * most
        self._counted, self._allowance = now, min(most, self._allowance + gained)
        while not self._is_full():
            event = None if self._unread else next(self._frames.events(), None)
            if event is None:
                self._go_on()
                return
            self._allowance -= 1
            self._take(event, now)
        self._held = True
        self._link.hold()
        if self._allowance < 1:
            self._loop.call_later(self._bounds.pause_s, self._work_on)

    def _work_on(self) -> None:
        if self._held and not self._gone:
            self._work()

    def _go_on(self) -> None:
        if self._held:
            self._held = False
            self._link.want_more()

    def _is_full(self) -> bool:
        return (
            self._allowance < 1
            or not self._flows
            or self._waiting_bytes > self._bounds.waiting_bytes
        )

    def _take(self, event: events.Event, now: float) -> None:
        match event:
            case events.TextMessage() | events.BytesMessage():
                if self._over is None:
                    self._take_part(event, now)
            case events.Ping():
                if self._frames.state is ConnectionState.OPEN:
                    self._write(event.response())
            case events.Pong():
                self._pinged = 0.0
            case events.CloseConnection():
                self._take_goodbye(event)

    def _take_part(self, event: events.TextMessage | events.BytesMessage, now: float) -> None:
        data: str | bytes = event.data if isinstance(event.data, str) else bytes(event.data)
        if data:
            self._parts.append(data)
            self._part_bytes += _size_bytes(data)
        if self._part_bytes > self._bounds.message_bytes:
            most = f"A message may have {self._bounds.message_bytes} bytes."
            self._unread = True
            self.close(CloseReason.MESSAGE_TOO_BIG, most)
        elif event.message_finished:
            empty: str | bytes = "" if isinstance(event, events.TextMessage) else b""
            # All parts of one message are of one kind.
            message = empty.join(self._parts)  # type: ignore[arg-type]
            self._messages.append((message, self._part_bytes))
            self._waiting_bytes += self._part_bytes
            self._parts, self._part_bytes = [], 0
            self._last_message = now
            self._woken.set()

    def _take_goodbye(self, event: events.CloseConnection) -> None:
        if self._frames.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # The peer has said none: wsproto tells so of what is no frame.
            self._unread = True
            self.close(event.code, event.reason or "")
            return
        if self._frames.state is ConnectionState.REMOTE_CLOSING:
            self._write(event.response())
        self._ended(SocketClosed(event.code, event.reason or ""))
        self._end_by = self._end_by or self._loop.time() + self._bounds.close_s
        self._link.hang_up()

    def _ended(self, why: SocketClosed) -> None:
        self._over = self._over or why
        self._parts, self._part_bytes = [], 0
        self._woken.set()
        self._closed.set()

    def _write(self, event: events.Event) -> None:
        self._link.write(bytes(self._frames.send(event)))


def _size_bytes(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
