"""What a job may read: what it was asked to learn from, not what it says of itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmaas.config import Settings
from lmaas.errors import ModelRefused
from lmaas.job import Job, JobCheckpoint, checkpoint_folder
from lmaas.jobs.artifacts import Artifacts
from lmaas.jobs.store import Jobs
from lmaas.recipe import recipe_of
from lmaas.registry.data_files import Files
from lmaas.service import Service
from lmaas.types import TENANT


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(Settings(home=str(tmp_path / "home")))
    yield service
    service.close()


def job_of(service: Service, tenant: str, train: str) -> Job:
    recipe = recipe_of({"name": "m", "task": "tabular", "data": {"train": train}})
    queue = Jobs(service.registry.database)
    return queue.add(tenant, "key", "train", "m", msgspec.to_builtins(recipe))


def point_of(job: Job) -> JobCheckpoint:
    model = "m.step-1.00000000"
    return JobCheckpoint(id="c", job=job.id, step=1, model=model, created_at=0.0, metrics={})


@pytest.mark.parametrize("tenant", [TENANT, "other"])
def test_only_the_operators_jobs_read_paths(service: Service, tmp_path: Path, tenant: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    _, reads = service.data.locate(job_of(service, tenant, str(secret)))
    assert reads == ([secret] if tenant == TENANT else [])


def test_a_checkpoint_reads_what_was_asked_for(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = tmp_path / "asked.csv", tmp_path / "told.csv"
    for path in (asked, told):
        path.write_text("a,b\n1,2\n")
    job = job_of(service, TENANT, str(asked))
    says: dict[str, Any] = {**job.recipe, "data": {**job.recipe["data"], "train": str(told)}}
    job = msgspec.structs.replace(job, resolved=says)
    given: list[Path] = []

    async def child(*_: object, reads: list[Path], **__: object) -> bytes:
        given.extend(reads)
        raise ModelRefused("seen")

    monkeypatch.setattr(service.workshop, "child", child)
    monkeypatch.setattr(Artifacts, "take", lambda *_: None)
    point = JobCheckpoint(
        id="c", job=job.id, step=1, model="m.step-1.00000000", created_at=0.0, metrics={}
    )
    with pytest.raises(ModelRefused, match="seen"):
        asyncio.run(service.jobs._publish_checkpoint(job, point))
    assert given == [asked]


def test_another_jobs_checkpoints_are_not_taken(tmp_path: Path, service: Service) -> None:
    results = Artifacts(tmp_path / "jobs", Files(tmp_path))
    job = job_of(service, "other", "file-" + "0" * 24)
    (tmp_path / "jobs" / "victim" / "checkpoints" / checkpoint_folder(1)).mkdir(parents=True)
    (tmp_path / "jobs" / job.id).mkdir()
    (tmp_path / "jobs" / job.id / "checkpoints").symlink_to("../victim/checkpoints")
    point = JobCheckpoint(
        id="c", job=job.id, step=1, model="m.step-1.00000000", created_at=0.0, metrics={}
    )
    with pytest.raises(ModelRefused):
        results.take(job, point, tmp_path / "taken")
