"""A long-lived task that fails is started again, counted, and keeps the server from being ready."""

import asyncio
from collections.abc import Callable

import pytest

from lmaas import supervision
from lmaas.supervision import Supervisor


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_fails_is_started_again_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "BACK_OFF_S", (0.01,))
    monkeypatch.setattr(supervision, "STEADY_S", 0.05)

    async def run() -> None:
        supervisor, starts = Supervisor(), 0

        async def work() -> None:
            nonlocal starts
            starts += 1
            if starts < 4:
                raise ZeroDivisionError
            await asyncio.sleep(60)

        task = supervisor.keep("work", work)
        assert supervisor.failures == {"work": 0}
        await until(lambda: supervisor.failures["work"] == 3)
        assert supervisor.down == {"work"}
        await until(lambda: not supervisor.down)
        assert starts == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_what_returns_is_over() -> None:
    async def run() -> None:
        supervisor = Supervisor()

        async def work() -> None:
            return

        await supervisor.keep("work", work)
        assert not supervisor.down

    asyncio.run(run())
