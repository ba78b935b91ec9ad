"""One answer on its way back: pieces as they come, what was used, and how it ended.

What generations, transcriptions and speech share. Whoever holds one reads it to its end or closes
it; closing it early cancels the request and still accounts for what it used.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Literal, TypeVar

from lmaas.generation_types import Usage
from lmaas.serving.metrics import Metrics
from lmaas.types import ModelVersion

Status = Literal["ok", "failed", "cancelled"]
Settle = Callable[[Usage | None, Status, BaseException | None], None]
Note = Callable[[int, int], None]
"""What is told, as a stream goes on, how many tokens of prompt and answer have gone out."""
CANCEL_REPORT_S = 2.0
"""How long a worker has to say what a cancelled request used."""

P = TypeVar("P")
R = TypeVar("R")


class Streamed(ABC, Generic[P, R]):
    """The answer of `version` in pieces `P`; a request that ends well gives `R`."""

    def __init__(self, version: ModelVersion, settle: Settle, metrics: Metrics, note: Note) -> None:
        self.version = version
        self.headers: list[tuple[bytes, bytes]] = []
        self._settle: Settle | None = settle
        self._metrics = metrics
        self._note = note
        self._pieces: deque[P] = deque()
        self._count = 0
        self._woken = asyncio.Event()
        self._task: asyncio.Future[R] | asyncio.Future[None] | None = None
        self._over_told = False

    @abstractmethod
    def _taken(self, result: R) -> Usage:
        """Take what a request that ended well gives; what it has used."""

    @abstractmethod
    def _sent(self) -> Usage:
        """What has been used as far as pieces tell; `_count` of tokens or characters have come."""

    def close(self) -> None:
        """Stop the request unless it is over."""
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def used(self, usage: Usage) -> None:
        """The request was cancelled, after using this."""
        self._end(usage, "cancelled", None)

    async def _begin(self, running: Awaitable[R]) -> None:
        """Run it, and wait for the first piece, the end, or what goes wrong before it."""
        task = self._task = asyncio.ensure_future(running)
        task.add_done_callback(self._over)
        try:
            await self._woken.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        if task.done():
            task.result()

    def _kept(self) -> None:
        """The answer is one that was kept: nothing runs, and nothing is used."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        self._task = done
        self._over_told = True
        self._end(Usage(0), "ok", None)

    async def _each(self) -> AsyncIterator[P]:
        """The pieces; raises the LMaaSError that ends the request early."""
        assert self._task is not None
        try:
            while True:
                while self._pieces:
                    yield self._pieces.popleft()
                if self._over_told:
                    # Not before: a task is done a moment before what it brought is taken.
                    self._task.result()
                    return
                self._woken.clear()
                await self._woken.wait()
        finally:
            self.close()

    def _over(self, task: asyncio.Future[R]) -> None:
        if task.cancelled():
            # The worker says what was used; if it cannot, what was sent counts.
            loop = asyncio.get_running_loop()
            loop.call_later(CANCEL_REPORT_S, self._end, self._sent(), "cancelled", None)
        elif (error := task.exception()) is not None:
            self._end(self._sent() if self._count else None, "failed", error)
        else:
            self._end(self._taken(task.result()), "ok", None)
        self._over_told = True
        self._woken.set()

    def _end(self, usage: Usage | None, status: Status, error: BaseException | None) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(usage, status, error)
            if usage is not None:
                self._metrics.used(self.version.ref, usage)
