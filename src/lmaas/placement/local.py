"""The machine that this process runs on, as a placement."""

import asyncio
import itertools
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from lmaas.placement.base import ChildBounds, NodeInfo
from lmaas.placement.job import LocalJob, end_leftovers
from lmaas.placement.machine import machine_budget_bytes
from lmaas.placement.program import GuardedProgram
from lmaas.placement.sandbox import run_child
from lmaas.placement.worker import LocalWorker, start_worker
from lmaas.runtime.messages import AnyMessage

LONGEST_SOCKET_FOLDER: Final = 70
"""Systems bound a unix socket's whole path to about 100 bytes."""


class LocalPlacement:
    """Processes of this machine. Shipped files and sockets lie in `home`/run/<process id>."""

    def __init__(self, home: Path) -> None:
        self._files = home / "run" / str(os.getpid())
        self._numbers = itertools.count(1)
        self._sockets: Path | None = None
        self._node: NodeInfo | None = None

    @property
    def node(self) -> NodeInfo:
        """This machine."""
        if self._node is None:
            name, memory_bytes = socket.gethostname(), machine_budget_bytes()
            self._node = NodeInfo(name=name, memory_bytes=memory_bytes)
        return self._node

    async def open(self) -> None:
        """Clear what killed servers left, and make the folder of sockets."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        for folder in self._files.parent.glob("*"):
            pid = int(folder.name) if folder.name.isdigit() else 0
            if folder == self._files or not psutil.pid_exists(pid):
                shutil.rmtree(folder, ignore_errors=True)
        # Beside the files, where the next start clears it, unless that path is too long.
        folder = self._files / "sockets"
        if len(os.fsencode(folder)) > LONGEST_SOCKET_FOLDER:
            folder = Path(tempfile.mkdtemp(prefix="lmaas-"))
        else:
            folder.mkdir(mode=0o700, parents=True)
        self._sockets = folder

    async def close(self) -> None:
        """Delete the files and sockets."""
        for folder in (self._files, self._sockets):
            if folder is not None:
                await asyncio.to_thread(_remove, folder)

    def ship(self, fill: Callable[[Path], None]) -> "LocalShipment":
        """Files in a folder of this process's own."""
        return LocalShipment(self._files / str(next(self._numbers)), fill)

    async def start_worker(
        self,
        files: Sequence[Path],
        on_message: Callable[[AnyMessage], None],
        *,
        memory_bytes: int,
        required: bool = False,
    ) -> LocalWorker:
        """See `placement.worker`."""
        return await start_worker(
            self.socket_path(), files, on_message, memory_bytes=memory_bytes, required=required
        )

    def socket_path(self) -> Path:
        """A new name in the folder of sockets."""
        assert self._sockets is not None, "The placement is not open."
        return self._sockets / f"{next(self._numbers)}.sock"

    async def start_program(
        self, argv: Sequence[str], environ: Mapping[str, str], output: asyncio.Protocol
    ) -> GuardedProgram:
        """See `placement.program`."""
        return await GuardedProgram.start(argv, environ, output)

    def start_job(self, folder: Path, command: Sequence[str]) -> LocalJob:
        """See `placement.job`."""
        return LocalJob(folder, command)

    def end_job(self, folder: Path) -> None:
        """See `placement.job`."""
        end_leftovers(folder)

    def run_child(
        self,
        module: str,
        request: bytes,
        *,
        scratch: Path,
        bounds: ChildBounds,
        stop: threading.Event | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """See `placement.sandbox`."""
        return run_child(module, request, scratch=scratch, bounds=bounds, stop=stop, heard=heard)


class LocalShipment:
    """A folder that a thread fills."""

    def __init__(self, folder: Path, fill: Callable[[Path], None]) -> None:
        self.folder = folder
        filling = asyncio.to_thread(fill, folder)
        self.arrived: asyncio.Future[None] = asyncio.ensure_future(filling)

    def remove(self) -> None:
        """Delete the folder; a thread that still fills it is waited for."""
        self.arrived.add_done_callback(self._remove)

    def _remove(self, arrived: asyncio.Future[None]) -> None:
        if not arrived.cancelled():
            arrived.exception()  # the worker that waited for it has told it, or is gone
        asyncio.get_running_loop().run_in_executor(None, _remove, self.folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
