"""A home that an older version made opens, serves the same answers, and goes on training."""

import json
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import lmaas
from homes.make import RECIPE, ROWS, X
from lmaas.config import Settings
from lmaas.job import StoredEvent
from lmaas.recipe import recipe_of
from lmaas.service import Service
from lmaas.types import TENANT

ARCHIVE = Path(__file__).parent.parent / "homes" / "older.tar.xz"
"""Made by `homes/make.py` with the code of 2026-11-27 (9c15587)."""


def plain(answer: Any) -> Any:
    return json.loads(msgspec.json.encode(answer, enc_hook=np.ndarray.tolist))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "home"


def test_a_home_of_an_older_version(home: Path) -> None:
    told = json.loads((home / "answers.json").read_text())
    with closing(Service(Settings(home=str(home)))) as service:
        assert service.fsck().ok
        (key,) = [key for key in service.keys.list(TENANT) if key.name == "old"]
        assert service.limits(TENANT, key.id).requests_per_minute == 1000
    with lmaas.local(home) as client:
        for name, given in (("net", X), ("table", ROWS), ("table@production", ROWS)):
            before, now = told[name.partition("@")[0]], plain(client.predict(name, given))
            if name == "net":
                np.testing.assert_allclose(now["output_0"], before["output_0"], atol=1e-5)
                continue
            for old, new in zip(before, now, strict=True):
                assert [each["label"] for each in new] == [each["label"] for each in old]
                assert [each["score"] for each in new] == pytest.approx(
                    [each["score"] for each in old], abs=1e-5
                )
        # The paused run goes on from its checkpoint, not from its start.
        paused = client.job(told["paused"])
        assert paused.state == "paused"
        step = max(point.step for point in paused.checkpoints)
        client.resume_job(paused.id)
        heard: list[StoredEvent] = []
        last = client.job_events(paused.id, limit=1000)[-1].seq
        assert client.wait_for_job(paused.id, heard.append, after=last).state == "succeeded"
        assert min(event.data["step"] for event in heard if event.type == "metrics") > step
        # What was trained is trained further.
        recipe = RECIPE | {
            "data": paused.recipe["data"], "model": {"base": "table:1"}, "epochs": 1,
        }  # fmt: skip
        done = client.wait_for_job(client.train(recipe_of(recipe)).id)
        assert done.model == "table:2"
