"""A worker's start that is cancelled leaves nothing open."""

import asyncio
import gc
from pathlib import Path

import psutil

from ir_models import SIGNATURE
from lmaas.config import Settings
from lmaas.placement.local import LocalPlacement
from lmaas.runtime.messages import ServeRecord
from lmaas.serving.launch import launch


def test_a_start_that_is_cancelled_closes_its_socket(tmp_path: Path) -> None:
    record = ServeRecord(
        model="m:1",
        task="tensor",
        precision="f32",
        reason="",
        max_batch_size=1,
        signature=SIGNATURE,
        folder=str(tmp_path / "m"),
    )
    settings = Settings(home=str(tmp_path))

    async def cancelled(steps: int) -> None:
        placement = LocalPlacement(tmp_path)
        await placement.open()
        sockets = placement.socket_path().parent
        files: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(launch(record, settings, placement, lambda message: None, files))
        while not list(sockets.glob("*.sock")):
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    for steps in range(4):
        asyncio.run(cancelled(steps))
    gc.collect()
    paths = {one.laddr for one in psutil.Process().net_connections("unix")}
    assert not [path for path in paths if str(path).startswith(str(tmp_path))]
