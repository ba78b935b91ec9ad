"""Waiting for what cannot be interrupted."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_end(work: Coroutine[Any, Any, T], stop: threading.Event | None = None) -> T:
    """The result of a thread's work; cancelled, it sets `stop` and still waits for the thread.

    So nobody removes the files that the thread works on, however often it is cancelled.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        raise


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of an error: if the caller is gone, nobody else does, and asyncio would log it."""
    if not task.cancelled():
        task.exception()
