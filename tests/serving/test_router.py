import asyncio
import json
from pathlib import Path

import pytest
from ir_models import Shelf, add_one

from lmaas.config import Settings
from lmaas.errors import CorruptBlob, ModelNotFound
from lmaas.serving.metrics import Metrics
from lmaas.serving.pool import Pool
from lmaas.serving.router import Router
from lmaas.types import Payload

PAYLOAD = Payload(format="json", body=b'{"inputs": [[0, 0, 0, 0]]}')


def shelf_of(folder: Path, amounts: tuple[float, ...]) -> Shelf:
    shelf = Shelf()
    for amount in amounts:
        target = folder / str(amount)
        target.mkdir()
        shelf.add("add", target, add_one(target, amount))
    return shelf


def router_of(folder: Path, shelf: Shelf) -> tuple[Router, Pool]:
    pool = Pool(Settings(home=str(folder / "home")), shelf, Metrics())
    return Router(shelf, pool), pool


def test_name_follows_new_versions_and_number_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        shelf = shelf_of(tmp_path, (1.0,))
        router, _ = router_of(tmp_path, shelf)
        assert router.resolve("default", "add").version == 1
        shelf.add("add", tmp_path, shelf.known["add:1"].manifest.signature)
        router.forget()
        assert router.resolve("default", "add").version == 2
        assert router.resolve("default", "add:1").version == 1
        with pytest.raises(ModelNotFound):
            router.resolve("default", "subtract")

    asyncio.run(run())


def test_registry_is_asked_once_for_a_name(tmp_path: Path) -> None:
    async def run() -> None:
        shelf = shelf_of(tmp_path, (1.0,))
        router, _ = router_of(tmp_path, shelf)
        first = router.resolve("default", "add")
        shelf.known.clear()
        assert router.resolve("default", "add") is first

    asyncio.run(run())


def test_last_good_version_answers_for_a_damaged_one(tmp_path: Path) -> None:
    async def run() -> None:
        shelf = shelf_of(tmp_path, (1.0, 2.0, 3.0))
        shelf.damaged |= {"add:2", "add:3"}
        router, pool = router_of(tmp_path, shelf)
        await pool.start()
        try:
            for _ in range(2):
                version, answer = await router.call("default", "add", PAYLOAD)
                assert version.ref == "add:1"
                assert json.loads(answer.body)["outputs"]["y"] == [[1, 1, 1, 1]]
            assert shelf.unpacked == ["add:3", "add:2", "add:1"]
            with pytest.raises(CorruptBlob):
                await router.call("default", "add:3", PAYLOAD)
            states = {status.model: (status.state, status.reason) for status in pool.status()}
            assert states["add:1"][0] == "ready"
            assert states["add:3"][0] == "failed"
            assert "damaged" in states["add:3"][1]
        finally:
            await pool.close(0)

    asyncio.run(run())
