"""Who waits for a thread is not let go before it has ended, however often it is cancelled."""

import asyncio
import logging
import threading

import pytest

from lmaas.placement.waiting import to_end


def test_cancelled_twice_it_waits_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    begun, stop, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        stop.wait(30)
        ended.set()
        raise ValueError("stopped")

    async def run() -> None:
        task = asyncio.ensure_future(to_end(asyncio.to_thread(work), stop))
        await asyncio.to_thread(begun.wait, 30)
        # Both arrive before the thread's end can.
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(run())
        del run
    assert "never retrieved" not in caplog.text
