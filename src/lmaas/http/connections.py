"""All connections of one server: how many there are, which do not move, and how they end."""

import asyncio
import contextlib
from typing import Final

from lmaas.config import Settings
from lmaas.http.connection import App, Connection

FRESH_S: Final = 0.25
TICK_S: Final = 0.5


class Connections:
    """All connections of one server."""

    def __init__(self, app: App, settings: Settings) -> None:
        self.app = app
        self.header_timeout_s = settings.header_timeout_s
        self.max_connections = settings.max_connections
        self.open: set[Connection] = set()
        self.draining = False
        self._emptied = asyncio.Event()

    def make(self) -> Connection:
        """A protocol for a connection that was just accepted."""
        return Connection(self)

    def left(self, connection: Connection) -> None:
        """A connection has ended."""
        self.open.discard(connection)
        if not self.open:
            self._emptied.set()

    async def watch(self) -> None:
        """End connections that do not move. Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for connection in list(self.open):
                connection.check(now)

    async def drain(self, timeout_s: float) -> None:
        """Close idle connections now and the others after their answer; abort what is left.

        A connection that was just made may have a request on its way: it is left a moment.
        """
        self.draining = True
        deadline = asyncio.get_running_loop().time() + timeout_s
        for connection in list(self.open):
            connection.close_if_idle(fresh=False)
        await asyncio.sleep(min(FRESH_S, timeout_s))
        for connection in list(self.open):
            connection.close_if_idle(fresh=True)
        await self._until_empty(deadline - asyncio.get_running_loop().time())
        for connection in list(self.open):
            connection.abort()

    async def _until_empty(self, timeout_s: float) -> None:
        self._emptied.clear()
        if self.open and timeout_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
