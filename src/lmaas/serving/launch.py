"""Our own worker process: started, connected, loaded, and in the end gone."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lmaas.config import Settings
from lmaas.errors import BY_CODE, LMaaSError, TimedOut, Unavailable
from lmaas.placement import left
from lmaas.placement.local import kill_worker, start_worker
from lmaas.placement.survivors import end_all, namespace_of
from lmaas.runtime.journal import read_journal
from lmaas.runtime.messages import AnyMessage, Expect, Failed, Load, Loaded, ServeRecord
from lmaas.serving.plan import machine_budget_bytes
from lmaas.serving.worker_connection import WorkerConnection

log = logging.getLogger(__name__)

JOURNAL_SUFFIX = ".journal"
SPARE_SUFFIX = ".tmp"
MISSED_BEATS: Final = 3


class LocalWorkerProcess:
    """A process that has loaded its model, and the connection to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: WorkerConnection,
        loaded: Loaded,
        journal: Path,
        patience_s: float,
    ) -> None:
        self.loaded = loaded
        self.patience_s = patience_s
        self._process = process
        self._connection = connection
        self._journal = journal
        self._namespace = namespace_of(process.pid)

    @property
    def pid(self) -> int:
        """The worker."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended."""
        return self._process.returncode

    @property
    def closed(self) -> asyncio.Future[None]:
        """Its end of the socket is closed."""
        return self._connection.closed

    @property
    def last_seen(self) -> float:
        """When it sent something."""
        return self._connection.last_seen

    def send(self, message: AnyMessage) -> None:
        """Send it."""
        self._connection.send(message)

    def kill(self) -> None:
        """End the process now."""
        kill_worker(self._process)

    async def end(self) -> set[int]:
        """Reap the process; the ids of the requests it was working on."""
        kill_worker(self._process)
        await self._process.wait()
        return await asyncio.to_thread(self._clear)

    def _clear(self) -> set[int]:
        """Who was at work; what it has left goes."""
        end_all(self._namespace)
        ids = read_journal(self._journal)
        self._journal.unlink(missing_ok=True)
        left.remove(self._journal.with_suffix(SPARE_SUFFIX))
        return ids


def _make(folders: Sequence[Path]) -> None:
    """The folders of files that are on their way: a worker can only be given what is there."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


async def launch(
    record: ServeRecord,
    settings: Settings,
    socket_path: Path,
    on_message: Callable[[AnyMessage], None],
    files: asyncio.Future[None],
) -> LocalWorkerProcess:
    """Start a worker on `socket_path` and have it load the model once its `files` are there.

    Raises the worker's own error when it cannot load, what `files` raises, TimedOut when it takes
    too long, and Unavailable when it dies meanwhile.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Loaded] = loop.create_future()

    def receive(message: AnyMessage) -> None:
        if outcome.done():
            on_message(message)
        elif isinstance(message, Loaded):
            outcome.set_result(message)
        elif isinstance(message, Failed):
            outcome.set_exception(error_of(message))

    folders = [Path(record.folder)]
    if record.options is not None and record.options.draft is not None:
        folders.append(Path(record.options.draft))
    journal = socket_path.with_suffix(JOURNAL_SUFFIX)
    spare = socket_path.with_suffix(SPARE_SUFFIX)
    await asyncio.to_thread(_make, (*folders, spare))
    connection = WorkerConnection(receive)
    # To listen waits for the loop: who is cancelled there must still close the socket.
    server = await loop.create_unix_server(
        lambda: connection, str(socket_path), start_serving=False
    )
    try:
        await server.start_serving()
        process = await start_worker(
            socket_path,
            journal,
            folders,
            spare,
            memory_bytes=settings.worker_memory_bytes or machine_budget_bytes(),
            required=settings.isolation == "required",
        )
    except BaseException:
        server.close()
        raise
    died = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(settings.load_timeout_s) as limit:
            await _first(connection.connected, died, record.model)
            connection.send(
                Expect(
                    record=record,
                    heartbeat_s=settings.heartbeat_s,
                    request_timeout_s=settings.request_timeout_s,
                )
            )
            limit.reschedule(None)  # checking a large model takes what the disk takes
            await _first(files, died, record.model)
            files.result()
            limit.reschedule(loop.time() + settings.load_timeout_s)
            connection.send(Load())
            await _first(outcome, died, record.model)
        loaded = outcome.result()
    except BaseException as error:
        namespace = namespace_of(process.pid)
        kill_worker(process)
        connection.close()
        await died
        end_all(namespace)
        if isinstance(error, TimeoutError):
            raise TimedOut(
                f"{record.model} was not loaded within {settings.load_timeout_s:g} s.",
                hint="Raise load_timeout_s.",
            ) from None
        raise
    finally:
        died.cancel()
        server.close()
        socket_path.unlink(missing_ok=True)
    return LocalWorkerProcess(
        process,
        connection,
        loaded,
        journal,
        MISSED_BEATS * settings.heartbeat_s,
    )


async def _first(
    wanted: asyncio.Future[None] | asyncio.Future[Loaded], died: asyncio.Future[int], model: str
) -> None:
    """Wait for `wanted`; raises Unavailable when the process dies before it."""
    await asyncio.wait((wanted, died), return_when=asyncio.FIRST_COMPLETED)
    if not wanted.done():
        raise Unavailable(
            f"The worker of {model} ended with code {died.result()} while loading.",
            hint="The server's log holds what it wrote.",
        )


def error_of(failed: Failed) -> LMaaSError:
    """The error that a worker reported, as it was raised there."""
    error = BY_CODE.get(failed.code, LMaaSError)(failed.message, hint=failed.hint)
    error.param = failed.param
    return error


def renewed(error: LMaaSError) -> LMaaSError:
    """The same error as a new object: one caller's traceback stays out of another's."""
    copy = type(error)(error.message, hint=error.hint)
    copy.__dict__.update(error.__dict__)
    return copy
