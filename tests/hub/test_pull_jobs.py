"""Pulls as jobs: they outlive their callers and their server, and tell how far they are."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import make_encoder
from hub_server import Hub, running_hub
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import (
    Cancelled,
    Conflict,
    Forbidden,
    InsufficientQuota,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    StorageFull,
)
from lmaas.job import Job
from lmaas.jobs import store
from lmaas.jobs.claims import Claims
from lmaas.jobs.inputs import SUFFIX, Inputs
from lmaas.jobs.inputs import TOKEN as TOKEN_FILE
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT, PullBody
from servers import Running, serving

REPO = "acme/encoder"
GATED = "acme/gated"
LARGE = "acme/large"
WEIGHTS = "model.safetensors"
TOKEN = "hf_a-secret-that-nobody-may-see"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("checkpoints")
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.add(REPO, make_encoder(folder / "encoder"))
        hub.add(GATED, folder / "encoder")
        hub.gated.add(GATED)
        hub.token = TOKEN
        large = folder / "large"
        large.mkdir()
        (large / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        save_file({"weight": np.zeros(3 << 20, np.uint8)}, large / WEIGHTS)
        hub.add(LARGE, large)
        yield hub


@pytest.fixture(autouse=True)
def _no_faults(hub: Hub) -> None:
    hub.holds, hub.breaks = {}, {}
    hub.held.clear()
    hub.release.clear()
    hub.served.clear()
    hub.asked.clear()


def hold(hub: Hub) -> None:
    """Have the next download of weights stop in its middle."""
    hub.holds[WEIGHTS] = len(hub.repos[REPO][WEIGHTS]) // 2


def go_on(hub: Hub) -> None:
    hub.holds = {}
    hub.release.set()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranges(hub: Hub) -> list[str | None]:
    return [headers.get("range") for _, path, headers in hub.asked if WEIGHTS in path]


def test_a_killed_server_goes_on_with_a_pull_and_publishes_once(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hold(hub)
    with serving(home) as server:
        with Client(server.url, server.key) as client:
            job = client.start_pull(GATED, name="finder", token=TOKEN)
            assert (job.kind, job.state, job.model) == ("pull", "queued", None)
            assert hub.held.wait(PATIENCE_S)
            secret = home / "jobs" / f"{job.id}{SUFFIX}" / TOKEN_FILE
            assert secret.read_text() == TOKEN
            assert secret.stat().st_mode & 0o777 == 0o600
            until(lambda: client.job(job.id).progress.get("done_bytes"))
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: HomeLock.read(home) is None)
    go_on(hub)
    with serving(home) as server, Client(server.url, server.key) as client:
        done = client.wait_for_job(job.id)
        assert (done.state, done.model, done.attempts) == ("succeeded", "finder:1", 2)
        assert [version.ref for version in client.versions("finder")] == ["finder:1"]
        first, second = ranges(hub)
        assert first is None
        assert second is not None
        assert int(second.removeprefix("bytes=").removesuffix("-")) > 0
        told = [event.message for event in client.job_events(job.id)]
        assert told[-1] == "The model is registered as finder:1."
        assert any("attempt 2" in message for message in told)
        assert done.progress["done_bytes"] == done.progress["total_bytes"] > 0
        assert WEIGHTS in client.job_log(job.id)
        assert not secret.exists()
        # Nothing that is kept or shown has the token.
        shown = [client.job(job.id), client.job_events(job.id), client.job_log(job.id)]
        assert TOKEN not in repr(shown)
    for path in home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.fixture
def server(hub: Hub, tmp_path: Path) -> Iterator[Running]:
    with serving(tmp_path / "home") as running:
        yield running


def test_a_pull_is_listed_paused_resumed_and_cancelled(hub: Hub, server: Running) -> None:
    hold(hub)
    with Client(server.url, server.key) as client:
        job = client.start_pull(GATED, token=TOKEN)
        same = client.start_pull(GATED, token=TOKEN)
        assert same.id == job.id
        assert hub.held.wait(PATIENCE_S)
        assert [found.id for found in client.jobs()] == [job.id]
        client.pause_job(job.id)
        until(lambda: client.job(job.id).state == "paused")
        assert (server.home / "jobs" / f"{job.id}{SUFFIX}" / TOKEN_FILE).exists()
        go_on(hub)
        hub.held.clear()
        hub.release.clear()
        hold(hub)
        hub.holds[WEIGHTS] = 4096
        client.resume_job(job.id)
        assert hub.held.wait(PATIENCE_S)
        client.cancel_job(job.id)
        with pytest.raises(Cancelled, match=job.id):
            client.wait_for_job(job.id)
        assert not (server.home / "jobs" / f"{job.id}{SUFFIX}" / TOKEN_FILE).exists()
        assert client.models() == []
        with pytest.raises(Conflict):
            client.cancel_job(job.id)
        # A cancelled pull is over: the next is another, and continues its files.
        go_on(hub)
        assert client.pull(GATED, token=TOKEN).ref == "gated:1"
        assert ranges(hub)[-1] is not None
        # They are no fine-tuning jobs.
        with httpx.Client(base_url=server.url, headers=server.admin) as http:
            assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
            for path in ("", "/events", "/checkpoints"):
                assert http.get(f"/v1/fine_tuning/jobs/{job.id}{path}").status_code == 404
            kinds = http.get("/api/jobs", params={"kind": "pull"}).json()
            assert len(kinds) == 2
            assert [each.id for each in client.jobs(kind="pull")] == [each["id"] for each in kinds]
            assert client.jobs(kind="train") == []
            assert http.get("/api/jobs", params={"kind": "train"}).json() == []
            assert http.get("/api/jobs", params={"kind": "dance"}).status_code == 400


def test_its_callers_may_go_away(hub: Hub, server: Running) -> None:
    hold(hub)
    with httpx.Client(base_url=server.url, headers=server.admin) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/api/pulls", json={"repo": REPO}, timeout=2)
        body = {"model": f"hf.co/{REPO}"}
        with http.stream("POST", "/api/pull", json=body) as told:
            assert told.status_code == 200
            assert "pulling" in next(told.iter_lines())
        queued = http.post("/api/pulls", params={"wait": "false"}, json={"repo": REPO})
        assert queued.status_code == 202
        job = queued.json()
        assert queued.headers["location"] == f"/api/jobs/{job['id']}"
        assert http.post("/api/pulls?wait=no", json={"repo": REPO}).status_code == 400
        go_on(hub)
        # All three have asked for the same, so it is one job.
        until(lambda: http.get("/api/jobs").json()[0]["state"] == "succeeded")
        assert [each["id"] for each in http.get("/api/jobs").json()] == [job["id"]]
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["encoder"]


def test_what_fails_is_told_as_it_was(hub: Hub, server: Running) -> None:
    with Client(server.url, server.key) as client:
        with pytest.raises(Forbidden, match="gated"):
            client.pull(GATED)
        with pytest.raises(ModelNotFound, match="acme/nothing"):
            client.pull("acme/nothing")
        with pytest.raises(InvalidInput, match="its tasks are"):
            client.start_pull(REPO, task="dance")
        assert {(job.state, job.error and job.error.code) for job in client.jobs()} == {
            ("failed", "forbidden"), ("failed", "model_not_found"),
        }  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\nX: 1", " ", "\u00e9"])
def test_a_token_that_is_none_is_not_shown(hub: Hub, tmp_path: Path, end: str) -> None:
    with closing(Service(Settings(home=str(tmp_path)))) as service:
        with pytest.raises(InvalidInput) as caught:
            service.model_jobs.pull("t", PullBody(repo=GATED, token=TOKEN + end))
        assert TOKEN not in repr(caught.value) + str(caught.value)
        with pytest.raises(InvalidInput) as caught:
            asyncio.run(service.catalog.pull("t", GATED, token=TOKEN + end))
        assert TOKEN not in repr(caught.value) + str(caught.value)
        assert service.jobs.page("t") == []
        assert not list(tmp_path.glob(f"jobs/*{SUFFIX}"))


def test_a_tenants_disk_bounds_its_pulls(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with closing(Service(Settings(home=str(home)))) as service:
        _, key = service.create_key("other", "k", ("admin",))
    with serving(home, tenant_disk_bytes=1 << 20) as server, Client(server.url, key) as client:
        with pytest.raises(InsufficientQuota, match="other"):
            client.pull(LARGE)
        assert not hub.served


def command(home: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lmaas", "--home", str(home), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(home: Path, *words: str) -> tuple[str, str]:
    process = command(home, *words)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out, err


def test_the_command_line_queues_follows_and_leaves(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    out, _ = said(home, "pull", REPO, "--name", "first", "--detach")
    assert "the next `lmaas serve` runs it" in out
    hold(hub)
    with serving(home) as server, Client(server.url, server.key) as client:
        (job,) = client.jobs()
        assert hub.held.wait(PATIENCE_S)
        # The same command follows the same job; Ctrl-C leaves it to the server.
        process = command(home, "pull", REPO, "--name", "first")
        line = process.stderr.readline() if process.stderr else ""
        assert "Downloading" in line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert f"The job {job.id} goes on at the server" in err
        assert f"lmaas jobs cancel {job.id}" in err
        assert client.job(job.id).state == "running"
        listed, _ = said(home, "jobs", "list")
        assert " pull " in listed
        assert " of " in listed
        go_on(hub)
        out, _ = said(home, "pull", REPO, "--name", "first")
        assert out.startswith("Published first:1 (embedding)")
        detached, _ = said(home, "--url", server.url, "--key", server.key, "pull", REPO,
                           "--detach", "--json")  # fmt: skip
        second = json.loads(detached)["id"]
        watched, _ = said(home, "jobs", "watch", second)
        assert "encoder:1" in watched
        assert WEIGHTS in said(home, "jobs", "logs", second)[0]


def test_a_command_that_is_interrupted_leaves_its_job_to_the_next(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hold(hub)
    process = command(home, "pull", REPO, "--json")
    assert hub.held.wait(PATIENCE_S)
    process.send_signal(signal.SIGINT)
    hub.release.set()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "goes on at the next `lmaas serve`" in err
    hub.holds = {}
    with serving(home) as server, Client(server.url, server.key) as client:
        (job,) = client.jobs()
        assert client.wait_for_job(job.id).model == "encoder:1"
        assert job.metadata == {}
    assert not list((home / "jobs").glob(f"*{SUFFIX}"))


def test_kinds_wait_in_lanes_of_their_own(tmp_path: Path) -> None:
    with closing(Service(Settings(home=str(tmp_path)))) as service:
        rows, claims = store.Jobs(service.registry.database), Claims(service.registry.database)
        trains = rows.add("t", "key", "train", "a", {})
        for number in range(3):
            rows.add("t", "key", "pull", f"m{number}", {})
        taken = claims.claim("me", 1, kinds=("train",))
        assert taken is not None
        assert taken[1].id == trains.id
        assert claims.claim("me", 1, kinds=("train",)) is None
        # A run does not count where pulls are, nor the pulls of other tenants.
        assert claims.claim("me", 1, kinds=("pull", "import")) is not None
        assert claims.claim("me", 1, kinds=("pull", "import")) is None
        rows.add("u", "key", "pull", "m", {})
        other = claims.claim("me", 1, kinds=("pull", "import"))
        assert other is not None
        assert other[1].tenant == "u"
        assert claims.requeue(all_of_others="you", kinds=("train",)) == [trains.id]


def test_one_that_is_being_cancelled_is_not_the_next(tmp_path: Path) -> None:
    with closing(Service(Settings(home=str(tmp_path)))) as service:
        body = PullBody(repo="acme/a", token=TOKEN)
        first = service.model_jobs.pull("t", body)
        taken = Claims(service.registry.database).claim("me", 1)
        assert taken is not None
        assert service.model_jobs.pull("t", body).id == first.id
        service.jobs.pause("t", first.id)
        second = service.model_jobs.pull("t", body)
        assert second.id != first.id
        service.jobs.cancel("t", first.id)
        assert service.model_jobs.pull("t", body).id == second.id


def test_a_server_that_dies_while_it_cancels_leaves_no_token(tmp_path: Path) -> None:
    async def start(service: Service) -> None:
        await service.model_jobs.start()
        await service.model_jobs.close(0)

    with closing(Service(Settings(home=str(tmp_path)))) as service:
        job = service.model_jobs.pull("t", PullBody(repo="acme/a", token=TOKEN))
        assert Claims(service.registry.database).claim("dead", 1) is not None
        service.jobs.cancel("t", job.id)
        asyncio.run(start(service))
        assert service.jobs.get("t", job.id).state == "cancelled"
        assert not list((tmp_path / "jobs").glob(f"*{SUFFIX}"))


@pytest.mark.parametrize("place", ["row", "token"])
def test_without_its_job_no_token_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Service(Settings(home=str(tmp_path)))) as service:
        first = service.model_jobs.pull("t", PullBody(repo="acme/a", token=TOKEN))
        with monkeypatch.context() as patch:
            if place == "row":
                patch.setattr(store, "tell", full)
            else:
                patch.setattr(Path, "replace", full)
            with pytest.raises(StorageFull):
                service.model_jobs.pull("t", PullBody(repo="acme/b", token=TOKEN))
        kept = [path.name for path in (tmp_path / "jobs").glob(f"*{SUFFIX}")]
        assert kept == [f"{first.id}{SUFFIX}"]
        assert [job.id for job in service.jobs.page("t")] == [first.id]


def test_what_a_command_gives_just_now_is_kept(tmp_path: Path) -> None:
    with closing(Service(Settings(home=str(tmp_path)))) as service:
        inputs = Inputs(tmp_path / "jobs")
        listed, added = threading.Event(), threading.Event()

        def unfinished() -> set[str]:
            listed.set()
            added.wait(0.5)
            return store.Jobs(service.registry.database).unfinished()

        def give(job_id: str) -> None:
            inputs.put(job_id, TOKEN_FILE, TOKEN)
            tidying.start()
            assert listed.wait(PATIENCE_S)
            added.set()
            time.sleep(0.2)

        tidying = threading.Thread(target=inputs.tidy, args=(unfinished,))
        queue = store.Jobs(service.registry.database)
        job = queue.add("t", "key", "pull", "m", {}, beside=give)
        tidying.join()
        assert inputs.get(job.id, TOKEN_FILE) == TOKEN


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WAITING", 2)

    def pull(service: Service, tenant: str, name: str, token: str | None = None) -> Job:
        body = PullBody(repo=f"acme/{name}", token=token)
        return service.model_jobs.pull(tenant, body)

    with closing(Service(Settings(home=str(tmp_path)))) as service:
        first, second = pull(service, "t", "a"), pull(service, "t", "b", TOKEN)
        assert first.id != second.id
        with pytest.raises(QueueFull):
            pull(service, "t", "c", TOKEN)
        assert pull(service, "t", "a", "newer").id == first.id
        assert pull(service, TENANT, "a").id != first.id
        kept: dict[str, Any] = {
            path.parent.name: path.read_text() for path in (tmp_path / "jobs").glob("*/token")
        }
        assert kept == {f"{first.id}{SUFFIX}": "newer", f"{second.id}{SUFFIX}": TOKEN}
        service.jobs.cancel("t", second.id)
        assert not (tmp_path / "jobs" / f"{second.id}{SUFFIX}").exists()
        Inputs(tmp_path / "jobs").tidy(lambda: {"another"})
        assert not list((tmp_path / "jobs").glob(f"*{SUFFIX}"))
        pull(service, "t", "c")
