import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from ir_models import Models, add_one
from lmaas.config import Settings
from lmaas.errors import CorruptBlob, ModelNotFound
from lmaas.serving.metrics import Metrics
from lmaas.serving.pool import Pool
from lmaas.serving.router import Router
from lmaas.types import JSON, Payload

PAYLOAD = Payload(media_type=JSON, body=b'{"inputs": [[0, 0, 0, 0]]}')


@contextmanager
def routing(folder: Path, *amounts: float) -> Iterator[tuple[Models, Router, Pool]]:
    """A router over the model `add`, whose versions add `amounts`."""
    models = Models(folder)
    for amount in amounts:
        models.make("add", partial(add_one, amount=amount))
    pool = Pool(Settings(home=str(folder / "home")), models, Metrics())
    try:
        yield models, Router(models, pool), pool
    finally:
        models.close()


def test_name_follows_new_versions_and_number_does_not(tmp_path: Path) -> None:
    with routing(tmp_path, 1.0) as (models, router, _):
        assert asyncio.run(router.find("default", "add")).version == 1
        models.make("add", add_one)
        assert asyncio.run(router.find("default", "add")).version == 2
        assert asyncio.run(router.find("default", "add:1")).version == 1
        with pytest.raises(ModelNotFound):
            asyncio.run(router.find("default", "subtract"))


def test_change_by_another_process_shows_up(tmp_path: Path) -> None:
    with routing(tmp_path, 1.0) as (_, router, _):
        assert asyncio.run(router.find("default", "add")).version == 1
        other = Models(tmp_path)
        other.make("add", add_one)
        other.close()
        assert asyncio.run(router.find("default", "add")).version == 2


def test_last_good_version_answers_for_a_damaged_one(tmp_path: Path) -> None:
    async def run(models: Models, router: Router, pool: Pool) -> None:
        for version in models.versions("default", "add"):
            if version.version > 1:
                models.damage(version)
        await pool.start()
        try:
            for _ in range(2):
                found = await router.find("default", "add")
                version, answer = await router.call(found, "add", PAYLOAD)
                assert version.ref == "add:1"
                assert json.loads(answer.body)["outputs"]["y"] == [[1, 1, 1, 1]]
            assert models.unpacked == ["add:3", "add:2", "add:1"]
            with pytest.raises(CorruptBlob):
                await router.call(found, "add:3", PAYLOAD)
            states = {status.model: (status.state, status.reason) for status in pool.status()}
            assert states["add:1"][0] == "ready"
            assert states["add:3"][0] == "failed"
            assert "model.bin" in states["add:3"][1]
        finally:
            await pool.close(0)

    with routing(tmp_path, 1.0, 2.0, 3.0) as (models, router, pool):
        asyncio.run(run(models, router, pool))
