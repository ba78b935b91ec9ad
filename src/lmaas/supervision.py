"""Long-lived tasks of a server, kept alive: what fails unexpectedly is logged, counted and started
again, and the server is not ready meanwhile. Knows nothing of what they do.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

BACK_OFF_S: Final = (0.1, 0.5, 1.0, 5.0)
STEADY_S: Final = 1.0
"""A task that has run for so long since it was started again is up."""


class Supervisor:
    """Keeps the tasks of one server."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        """How often each task has failed."""
        self._down: set[str] = set()

    @property
    def down(self) -> frozenset[str]:
        """The tasks that have failed and are not yet steady again."""
        return frozenset(self._down)

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """A task that runs `work` again whenever it fails, until it is cancelled or returns."""
        self.failures[name] += 0
        return asyncio.create_task(self._keep(name, work), name=name)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        in_a_row = 0
        while True:
            began = loop.time()
            steady = loop.call_later(STEADY_S, self._down.discard, name)
            try:
                await work()
            except Exception:
                steady.cancel()
                in_a_row = 0 if loop.time() - began > STEADY_S else in_a_row
                self.failures[name] += 1
                self._down.add(name)
                log.exception("The task %s failed; it is started again.", name)
            else:
                steady.cancel()
                return
            await asyncio.sleep(BACK_OFF_S[min(in_a_row, len(BACK_OFF_S) - 1)])
            in_a_row += 1
