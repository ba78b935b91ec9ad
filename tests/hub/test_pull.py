"""`lmaas pull` from end to end: killed, interrupted, out of disk; then registered and answering."""

import asyncio
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ollama import Client as Ollama
from ollama import ResponseError
from safetensors.numpy import save_file

from checkpoints import make_encoder, make_qwen3
from hub_server import Hub, running_hub
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import InvalidInput, ModelNotFound, Unavailable
from lmaas.hub.pull import locked
from lmaas.hub.repo import parse_ref
from lmaas.service import Service, catalog
from lmaas.types import TENANT, ModelVersion
from servers import serving

WEIGHTS = "model.safetensors"
TINY = "acme/Tiny-Qwen3"
FAKE = "acme/fake"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("checkpoints")
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.add(TINY, make_qwen3(folder / "tiny"))
        hub.add("acme/encoder", make_encoder(folder / "encoder"))
        fake = folder / "fake"
        fake.mkdir()
        (fake / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        numbers = np.random.default_rng(0).integers(0, 255, 3 << 20, np.uint8)
        save_file({"weight": numbers}, fake / WEIGHTS)
        hub.add(FAKE, fake)
        yield hub


@pytest.fixture(autouse=True)
def _no_faults(hub: Hub) -> None:
    hub.holds, hub.breaks = {}, {}
    hub.held.clear()
    hub.release.clear()
    hub.served.clear()


def start(home: Path, *words: str, **settings: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lmaas", "--home", str(home), "pull", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def models(home: Path) -> list[ModelVersion]:
    service = Service(Settings(home=str(home)))
    try:
        return service.catalog.latest(TENANT)
    finally:
        service.close()


def part_bytes(home: Path, at_least: int = 0) -> int:
    """Size of the incomplete weights, once they have so many bytes."""
    deadline = time.monotonic() + 60
    while True:
        parts = list((home / "hub").rglob(f"{WEIGHTS}.part"))
        if parts and parts[0].stat().st_size >= at_least:
            return parts[0].stat().st_size
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_range(hub: Hub) -> str | None:
    """From which byte on the weights were asked for, the last time."""
    return [headers for _, path, headers in hub.asked if WEIGHTS in path][-1].get("range")


def test_killed_it_continues_and_is_registered(hub: Hub, tmp_path: Path) -> None:
    home, commit = tmp_path / "home", hub.describe(hub.repos[TINY])["sha"]
    hub.holds[WEIGHTS] = 200_704
    process = start(home, TINY)
    assert part_bytes(home, 200_704) == 200_704
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    hub.holds = {}
    hub.release.set()

    process = start(home, TINY, "--json", "--keep")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    version = json.loads(out)
    assert (version["name"], version["manifest"]["task"]) == ("tiny-qwen3", "text-generation")
    lineage = version["manifest"]["lineage"]
    assert (lineage["origin"], lineage["parent"]) == ("pull", f"hf:{TINY}@{commit}")
    told = [json.loads(line) for line in err.splitlines()]
    assert told[-1]["done_bytes"] == told[-1]["total_bytes"]
    assert last_range(hub) == "bytes=200704-"
    kept = home / "hub" / "default" / TINY.replace("/", "--") / commit
    assert (kept / WEIGHTS).read_bytes() == hub.repos[TINY][WEIGHTS]
    assert (home / "hub").stat().st_mode & 0o777 == 0o700


def test_interrupted_nothing_is_registered(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.holds[WEIGHTS] = 1 << 20
    process = start(home, FAKE)
    part_bytes(home, 1 << 20)
    process.send_signal(signal.SIGINT)
    hub.release.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert part_bytes(home) >= 1 << 20
    assert models(home) == []
    # What is left is found, and goes when it is asked for, but not from under a running pull.
    commit = hub.describe(hub.repos[FAKE])["sha"]
    with closing(Service(Settings(home=str(home)))) as service:
        (told,) = service.fsck().downloads
        assert told.startswith(f"{FAKE}@{commit}: ")
        with locked(home / "hub" / "default", parse_ref(FAKE)):
            assert not service.fsck(repair=True).downloads
        assert service.fsck(repair=True).downloads == (told,)
        assert not service.fsck().downloads
    assert not list((home / "hub").rglob("*.part"))


def test_a_full_disk_leaves_what_is_there(hub: Hub, tmp_path: Path) -> None:
    home, limit = tmp_path / "home", 2 << 20

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(home, FAKE, "--json", preexec_fn=small)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    error = json.loads(err.splitlines()[-1])["error"]
    assert error["code"] == "storage_full"
    assert "continues" in error["hint"]
    assert part_bytes(home) == limit
    assert models(home) == []
    # All of it comes now; then the weights turn out to be no Llama, and stay to be looked at.
    process = start(home, FAKE, "--quiet")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert last_range(hub) == f"bytes={limit}-"


def test_two_at_once_and_bad_usage(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with locked(home / "hub" / "default", parse_ref(FAKE)):
        process = start(home, FAKE, "--json")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "conflict"
    process = start(home, "--url", hub.url, "--keep", FAKE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--keep is not for --url" in err
    process = start(home, TINY, "--task", "dance")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "its tasks are" in err
    assert not hub.served


def test_onto_a_server(hub: Hub, tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        with Client(server.url, server.key) as client:
            version = client.pull("acme/encoder", name="finder")
            assert (version.ref, version.manifest.task) == ("finder:1", "embedding")
            with pytest.raises(ModelNotFound, match="has no model acme/nothing"):
                client.pull("acme/nothing")
            with pytest.raises(InvalidInput, match="its tasks are"):
                client.pull("acme/encoder", task="dance")
        assert not [
            path for path in (server.home / "hub" / "default").iterdir() if path.suffix != ".lock"
        ]
        body = {"repo": TINY}
        refused = httpx.post(f"{server.url}/api/pulls", json=body, headers=server.caller)
        assert refused.status_code == 403
        body["endpoint"] = "http://127.0.0.1:9"
        refused = httpx.post(f"{server.url}/api/pulls", json=body, headers=server.admin)
        assert refused.status_code == 400
        assert "endpoint" in refused.text
        with Ollama(host=server.url, headers=server.admin) as ollama:
            told = list(ollama.pull("hf.co/acme/encoder", stream=True))
            assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
            assert ollama.show("hf.co/acme/encoder").capabilities == ["embedding"]
            with pytest.raises(ResponseError, match="acme/nothing"):
                list(ollama.pull("hf.co/acme/nothing", stream=True))
        sent = {"model": "finder", "input": "hello"}
        answer = httpx.post(f"{server.url}/v1/embeddings", json=sent, headers=server.caller)
        assert len(answer.json()["data"][0]["embedding"]) == 32


@pytest.mark.parametrize("shared", [False, True])
def test_the_servers_token_is_its_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Another tenant pulls as nobody, or with a token of its own."""
    asked: list[str | None] = []

    def note(_ref: object, folder: Path, *, token: str | None, **_: object) -> None:
        asked.append(token)
        raise Unavailable(str(folder))

    monkeypatch.setenv("HF_TOKEN", "the-operators")
    monkeypatch.setattr(catalog, "download", note)
    folders = set()
    service = Service(Settings(home=str(tmp_path), share_hub_token=shared))
    try:
        for tenant, token in (("default", None), ("other", None), ("other", "its-own")):
            with pytest.raises(Unavailable) as told:
                asyncio.run(service.catalog.pull(tenant, FAKE, token=token))
            folders.add(told.value.message)
    finally:
        service.close()
    assert asked == ["the-operators", "the-operators" if shared else None, "its-own"]
    assert len(folders) == 2
