"""Waiting for what cannot be interrupted."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_end(work: Coroutine[Any, Any, T], stop: threading.Event | None = None) -> T:
    """The result of a thread's work; cancelled, it sets `stop` and still waits for the thread.

    So nobody removes the files that the thread works on.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await asyncio.wait((task,))
        if not task.cancelled():
            # Whoever asked is gone: an error has nobody to be told to.
            task.exception()
        raise
