"""Jobs over HTTP and through the client, at a server that runs none and at one that does."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lmaas.client import AsyncClient, Client
from lmaas.errors import Conflict, InvalidInput, ModelNotFound, NotFound
from lmaas.job import Job
from lmaas.recipe import DataChoice, ModelChoice, Recipe
from servers import Running, serving

RECIPE = Recipe(
    name="digits", task="image-classification", data=DataChoice(train="/no/such/folder")
)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that queues jobs and runs none."""
    with serving(tmp_path_factory.mktemp("idle"), max_running_jobs=0) as running:
        yield running


@pytest.fixture
def client(idle: Running) -> Iterator[Client]:
    with Client(idle.url, idle.key) as made:
        yield made


def test_a_job_is_queued_paused_resumed_and_cancelled(client: Client) -> None:
    job = client.train(RECIPE, priority=3)
    assert (job.state, job.priority, job.name) == ("queued", 3, "digits")
    assert job.recipe["data"]["train"] == "/no/such/folder"
    assert client.job(job.id) == job
    assert client.pause_job(job.id).state == "paused"
    assert client.resume_job(job.id).state == "queued"
    assert client.cancel_job(job.id).state == "cancelled"
    with pytest.raises(Conflict):
        client.resume_job(job.id)
    told = [event.message for event in client.job_events(job.id)]
    assert told == [
        "The job is queued.", "The job is paused.", "The job is queued again.",
        "The job is cancelled.",
    ]  # fmt: skip
    assert [event.message for event in client.follow_job(job.id, after=2)] == told[2:]
    assert client.job_log(job.id) == ""


def test_jobs_are_listed_in_pages(client: Client) -> None:
    made = [client.train(RECIPE).id for _ in range(3)]
    first = client.jobs(limit=2)
    assert [job.id for job in first] == made[:0:-1]
    assert client.jobs(after=first[-1].id, limit=1)[0].id == made[0]
    client.cancel_job(made[1])
    assert made[1] in [job.id for job in client.jobs(state="cancelled")]


def test_the_async_client_has_the_same_verbs(idle: Running) -> None:
    async def use() -> tuple[Job, list[str]]:
        async with AsyncClient(idle.url, idle.key) as client:
            job = await client.train(RECIPE)
            await client.pause_job(job.id)
            told = [event.message async for event in client.follow_job(job.id)]
            await client.resume_job(job.id)
            assert await client.job_events(job.id, after=2, limit=1)
            return await client.cancel_job(job.id), told

    job, told = asyncio.run(use())
    assert job.state == "cancelled"
    assert told == ["The job is queued.", "The job is paused."]


def test_what_is_wrong_is_refused_by_name(idle: Running, client: Client) -> None:
    with pytest.raises(NotFound, match="ftjob-none"):
        client.job("ftjob-none")
    with pytest.raises(NotFound):
        list(client.follow_job("ftjob-none"))
    with pytest.raises(ModelNotFound, match="nothing"):
        client.train(
            Recipe(
                name="a",
                task="tabular",
                data=DataChoice(train="x"),
                model=ModelChoice(base="nothing:1"),
            )
        )
    url = f"{idle.url}/api/jobs"
    for body, told in (
        ({"recipe": {"name": "a", "task": "tabular"}}, "data"),
        ({"recipe": {"name": "a", "task": "cook", "data": {"train": "x"}}}, "cook"),
        ({"recipe": {"name": "a", "task": "tabular", "data": {"train": "x"}, "lr": 1}}, "lr"),
        ({"recipe": {"name": "A b", "task": "tabular", "data": {"train": "x"}}}, "A b"),
    ):
        response = httpx.post(url, json=body, headers=idle.admin)
        assert response.status_code == 400
        assert told in response.json()["detail"]
    for query in ("limit=0", "limit=x", "state=lost"):
        assert httpx.get(f"{url}?{query}", headers=idle.admin).status_code == 400
    assert httpx.get(url, headers=idle.caller).status_code == 403


def test_a_job_whose_data_is_missing_fails_with_its_name(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as running, Client(running.url, running.key) as client:
        job = client.train(RECIPE)
        events = list(client.follow_job(job.id))
        found = client.job(job.id)
        assert found.state == "failed"
        assert found.error is not None
        assert found.error.code == InvalidInput.code
        assert "/no/such/folder" in found.error.message
        assert (events[-1].type, events[-1].level) == ("error", "error")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert "Traceback" in client.job_log(job.id)
        assert client.catalog() == []
