"""The server's end of one worker's socket: messages in, messages out. Keeps no requests."""

import asyncio
from collections.abc import Callable
from typing import cast

from lmaas.runtime.messages import AnyMessage, Decoder, encode


class WorkerConnection(asyncio.Protocol):
    """Gives each message to `on_message`; what is sent within one loop turn is written as one."""

    def __init__(self, on_message: Callable[[AnyMessage], None]) -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.last_seen = loop.time()
        self._loop = loop
        self.on_message = on_message
        self._decoder = Decoder()
        self._out: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The worker has connected."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self.last_seen = self._loop.time()
        self.connected.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Whatever came is a sign of life too."""
        self.last_seen = self._loop.time()
        for message in self._decoder.feed(data):
            self.on_message(message)

    def connection_lost(self, error: Exception | None) -> None:
        """The worker is gone, or `close` was called."""
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: AnyMessage) -> None:
        """Send soon: at the end of this turn of the loop. A closed connection drops the message."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(encode(message))

    def close(self) -> None:
        """Hang up; the worker ends by itself when it sees that."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self.closed.done():
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])
