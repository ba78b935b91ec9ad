"""vLLM as a process of another environment: started under a guard, its log's end kept, ended.

Knows nothing of models and requests.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

import psutil

from lmaas.placement.guard import SWEEP_S, start_guarded
from lmaas.serving.vllm_log import Tail

LOG_END_S: Final = 1.0
"""How long the end of what a process wrote may be on its way."""


class VllmProcess:
    """A program, its guard, and what they write. Make it with `start`."""

    def __init__(self, guard: asyncio.subprocess.Process, tail: Tail) -> None:
        self.ended: asyncio.Future[int] = asyncio.ensure_future(guard.wait())
        self._guard = guard
        self._tail = tail

    @classmethod
    async def start(
        cls, argv: Sequence[str], environ: Mapping[str, str], secret: str
    ) -> "VllmProcess":
        """Start it. `secret` is never told of what it writes."""
        tail = Tail(secret)
        source, sink = os.pipe()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: tail, os.fdopen(source, "rb", 0)
        )
        try:
            guard = await start_guarded(argv, environ, sink)
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(sink)
        return cls(guard, tail)

    @property
    def pid(self) -> int:
        """The program's own process, or its guard's when that is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._guard.pid).children()
            return int(min(children, key=_age, default=self._guard).pid)
        return self._guard.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._guard.returncode

    def memory_bytes(self) -> int:
        """What all its processes take; what they share counts once."""
        owned, shared = 0, 0
        with contextlib.suppress(psutil.NoSuchProcess):
            guard = psutil.Process(self._guard.pid)
            for process in (guard, *guard.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory = process.memory_info()
                    common = getattr(memory, "shared", 0)
                    owned += memory.rss - common
                    shared = max(shared, common)
        return owned + shared

    async def told(self) -> str:
        """What it wrote last, as one line."""
        if self.ended.done():
            await asyncio.wait((self._tail.closed,), timeout=LOG_END_S)
        return self._tail.told()

    def kill(self) -> None:
        """Have its guard end all of it now."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    async def end(self) -> None:
        """Kill it and wait until nothing of it is left."""
        self.kill()
        await asyncio.wait((self.ended,), timeout=2 * SWEEP_S)
        if self.code is None or self.code < 0:
            # The guard is stuck, or was killed itself and left others.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)
        await asyncio.wait((self.ended,))


def _age(process: psutil.Process) -> float:
    return float(process.create_time())
