"""Work that waits for disks and databases, beside an event loop that must not wait.

A few threads for reads, which SQLite lets go on beside a writer, and one for writes, which it
lets in one at a time: so what waits for another process's lock holds up nobody who only reads.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from lmaas.types import know_records

P = ParamSpec("P")
T = TypeVar("T")

READERS: Final = 4
WRITERS: Final = 1
GUARD: Final = "_LMAAS_GUARD"
"""With this in its environment, a server fails where its event loop would wait. For tests."""


class Aside:
    """The threads of one server for its database and files."""

    def __init__(self) -> None:
        know_records()
        self._reads = ThreadPoolExecutor(READERS, "read")
        self._writes = ThreadPoolExecutor(WRITERS, "write")
        self._asked: dict[Hashable, asyncio.Future[Any]] = {}

    async def share(
        self, needed: Hashable, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `ask` returns: called once for all who wait for what is `needed`."""
        asked = self._asked.get(needed)
        if asked is None:
            asked = asyncio.ensure_future(self.read(ask, *args, **kwargs))
            self._asked[needed] = asked

            def answered(done: asyncio.Future[Any]) -> None:
                del self._asked[needed]
                if not done.cancelled():
                    done.exception()  # whoever waited for it has it, or is gone

            asked.add_done_callback(answered)
        answer: T = await asyncio.shield(asked)
        return answer

    async def read(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `ask` returns. If its caller is cancelled, it runs on and its result is dropped."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reads, functools.partial(ask, *args, **kwargs))

    async def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `change` returns. If its caller is cancelled, it is done nevertheless."""
        loop = asyncio.get_running_loop()
        work = functools.partial(change, *args, **kwargs)
        return await asyncio.shield(loop.run_in_executor(self._writes, work))

    def close(self) -> None:
        """Finish what is being done."""
        self._reads.shutdown(cancel_futures=True)
        self._writes.shutdown()


def guard_this_thread() -> None:
    """Where the environment has `GUARD`: from now on, waiting in this thread's loop fails."""
    if os.environ.get(GUARD):
        _guarded.add(threading.get_ident())


def refuse_in_loop(what: str) -> None:
    """Raise RuntimeError where a guarded event loop runs in this thread."""
    if threading.get_ident() in _guarded and asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{what} in the event loop, which would wait for disks and locks there.")


_guarded: set[int] = set()
