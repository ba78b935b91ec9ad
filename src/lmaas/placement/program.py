"""Programs of other environments as processes of this machine, each under a guard."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

import psutil

from lmaas.placement.guard import SWEEP_S, start_guarded


class GuardedProgram:
    """A program and its guard. Make it with `start`."""

    def __init__(self, guard: asyncio.subprocess.Process) -> None:
        self.ended: asyncio.Future[int] = asyncio.ensure_future(guard.wait())
        self._guard = guard

    @classmethod
    async def start(
        cls, argv: Sequence[str], environ: Mapping[str, str], output: asyncio.Protocol
    ) -> "GuardedProgram":
        """Start it; what its processes write goes to `output`."""
        source, sink = os.pipe()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: output, os.fdopen(source, "rb", 0)
        )
        try:
            guard = await start_guarded(argv, environ, sink)
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(sink)
        return cls(guard)

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
