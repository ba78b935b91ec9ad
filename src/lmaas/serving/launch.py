"""Our own worker: started by a placement, connected, told its model, loaded."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lmaas.config import Settings
from lmaas.errors import BY_CODE, LMaaSError, TimedOut, Unavailable
from lmaas.placement.base import Placement, WorkerHandle
from lmaas.placement.waiting import to_end
from lmaas.runtime.messages import AnyMessage, Expect, Failed, Load, Loaded, ServeRecord

log = logging.getLogger(__name__)

MISSED_BEATS: Final = 3


class LoadedWorker:
    """A worker that has loaded its model."""

    def __init__(self, worker: WorkerHandle, loaded: Loaded, patience_s: float) -> None:
        self.loaded = loaded
        self.patience_s = patience_s
        self._worker = worker
        self._channel = worker.channel

    @property
    def pid(self) -> int:
        """The worker."""
        return self._worker.pid

    @property
    def code(self) -> int | None:
        """How it ended."""
        return self._worker.code

    @property
    def closed(self) -> asyncio.Future[None]:
        """Its end of the channel is closed."""
        return self._channel.closed

    @property
    def last_seen(self) -> float:
        """When it sent something."""
        return self._channel.last_seen

    def send(self, message: AnyMessage) -> None:
        """Send it."""
        self._channel.send(message)

    def kill(self) -> None:
        """End the process now."""
        self._worker.kill()

    async def end(self) -> set[int]:
        """Reap the process; the ids of the requests it was working on."""
        return await self._worker.end()


async def launch(
    record: ServeRecord,
    settings: Settings,
    placement: Placement,
    on_message: Callable[[AnyMessage], None],
    files: asyncio.Future[None],
) -> LoadedWorker:
    """Start a worker of `placement` and have it load the model once its `files` are there.

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
    worker = await placement.start_worker(
        folders,
        receive,
        memory_bytes=settings.worker_memory_bytes or placement.node.memory_bytes,
        required=settings.isolation == "required",
    )
    died = asyncio.ensure_future(worker.wait())
    try:
        async with asyncio.timeout(settings.load_timeout_s) as limit:
            await _first(worker.channel.connected, died, record.model)
            worker.channel.send(
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
            worker.channel.send(Load())
            await _first(outcome, died, record.model)
        loaded = outcome.result()
    except BaseException as error:
        await to_end(worker.end())
        if isinstance(error, TimeoutError):
            raise TimedOut(
                f"{record.model} was not loaded within {settings.load_timeout_s:g} s.",
                hint="Raise load_timeout_s.",
            ) from None
        raise
    finally:
        died.cancel()
    return LoadedWorker(worker, loaded, MISSED_BEATS * settings.heartbeat_s)


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
