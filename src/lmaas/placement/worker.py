"""Workers as processes of this machine. Knows nothing of what they serve."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lmaas.placement import left
from lmaas.placement.base import MessageChannel
from lmaas.placement.isolation import Confinement
from lmaas.placement.output import Output
from lmaas.placement.survivors import Namespace, end_all, namespace_of
from lmaas.placement.worker_connection import WorkerConnection
from lmaas.runtime.journal import read_journal
from lmaas.runtime.messages import AnyMessage

PASSED_ON: Final = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
"""Variables that a worker inherits. Keys, tokens and settings stay behind."""
NOWHERE: Final = {"HOME": "/", "USER": "lmaas", "KERAS_HOME": "/"}
"""A worker has no home: libraries that would keep things there cannot."""
FILE_BYTES: Final = 512 << 20
"""The largest file that a worker can write, and all that it can have in its own /dev/shm."""
JOURNAL_SUFFIX: Final = ".journal"
SPARE_SUFFIX: Final = ".tmp"


class LocalWorker:
    """A worker's process, and the server's end of its socket."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: WorkerConnection,
        server: asyncio.Server,
        socket_path: Path,
        on_message: Callable[[AnyMessage], None],
    ) -> None:
        self.channel: MessageChannel = channel
        self._connection = channel
        self._process = process
        self._server = server
        self._socket_path = socket_path
        self._on_message = on_message
        self._namespace: Namespace | None = None
        channel.on_message = self._hear_first
        channel.connected.add_done_callback(lambda _: self._stop_listening())

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    def kill(self) -> None:
        """End its whole process group at once."""
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def end(self) -> set[int]:
        """Kill and reap it; the ids of the requests it was working on."""
        self._note_namespace()
        self.kill()
        self._connection.close()
        self._stop_listening()
        await self._process.wait()
        return await asyncio.to_thread(self._clear)

    def _hear_first(self, message: AnyMessage) -> None:
        """It has confined itself: from here on its descendants are known by its namespace."""
        self._note_namespace()
        self._connection.on_message = self._on_message
        self._on_message(message)

    def _note_namespace(self) -> None:
        self._namespace = self._namespace or namespace_of(self.pid)

    def _stop_listening(self) -> None:
        self._server.close()
        self._socket_path.unlink(missing_ok=True)

    def _clear(self) -> set[int]:
        """Who was at work; what it has left goes."""
        end_all(self._namespace)
        journal = self._socket_path.with_suffix(JOURNAL_SUFFIX)
        ids = read_journal(journal)
        journal.unlink(missing_ok=True)
        left.remove(self._socket_path.with_suffix(SPARE_SUFFIX))
        return ids


async def start_worker(
    socket_path: Path,
    files: Sequence[Path],
    on_message: Callable[[AnyMessage], None],
    *,
    memory_bytes: int,
    required: bool = False,
) -> LocalWorker:
    """Start a worker that connects to `socket_path`, in a process group of its own.

    It is shut in (`placement.isolation`): it reads `files`, folders that are made where they are
    not there yet, and writes its journal, files in memory (in a folder beside the socket where the
    kernel has no way to bound these), and up to `memory_bytes` of memory. It ends by itself when
    its end of the socket closes, so that none is left behind when the server is killed. What it
    prints goes to stderr through a pipe.
    """
    loop = asyncio.get_running_loop()
    spare = socket_path.with_suffix(SPARE_SUFFIX)
    await asyncio.to_thread(_make, (*files, spare))
    channel = WorkerConnection(on_message)
    # To listen waits for the loop: who is cancelled there must still close the socket.
    server = await loop.create_unix_server(lambda: channel, str(socket_path), start_serving=False)
    try:
        await server.start_serving()
        process = await _start(
            socket_path,
            Confinement(
                reads=tuple(map(str, files)),
                memory_fds=False,
                data_bytes=memory_bytes,
                file_bytes=FILE_BYTES,
                shared_bytes=FILE_BYTES,
                spare=str(spare),
                required=required,
            ),
        )
    except BaseException:
        server.close()
        socket_path.unlink(missing_ok=True)
        raise
    return LocalWorker(process, channel, server, socket_path, on_message)


async def _start(socket_path: Path, confinement: Confinement) -> asyncio.subprocess.Process:
    output = Output()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "lmaas.placement.enter",
            str(socket_path),
            str(socket_path.with_suffix(JOURNAL_SUFFIX)),
            msgspec.json.encode(confinement).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.descriptor,
            stderr=output.descriptor,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ} | NOWHERE,
            start_new_session=True,
        )
    except BaseException:
        output.close()
        raise
    output.pass_on()
    return process


def _make(folders: Sequence[Path]) -> None:
    """The folders of files that are on their way: a worker can only be given what is there."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
