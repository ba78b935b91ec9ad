"""Things that die, fill up or rot under a running server, seen from its port."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import lmaas
from ir_models import STEPS_PER_S, Models, slow
from lmaas.client import Client
from lmaas.errors import StorageFull
from servers import Running, png, serving


@pytest.fixture
def home(digits_home: Path, tmp_path: Path) -> Path:
    """A copy of the home with `digits`, to be broken."""
    return Path(shutil.copytree(digits_home, tmp_path / "home"))


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait for `condition`; a bound, not a measurement."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def call(server: Running, seed: int = 1) -> httpx.Response:
    url = f"{server.url}/models/digits"
    return httpx.post(url, content=png(seed), headers=server.caller, timeout=60)


def test_a_worker_is_killed_with_fifty_requests_in_flight(home: Path) -> None:
    with serving(home) as server, Client(server.url, server.key) as client:
        alone = [call(server, seed).json() for seed in range(50)]
        (worker,) = client.ps()
        assert worker.pid
        with ThreadPoolExecutor(50) as threads:
            waiting = [threads.submit(call, server, seed) for seed in range(50) for _ in range(4)]
            until(lambda: client.ps()[0].queued)
            os.kill(worker.pid, signal.SIGKILL)
            answers = [future.result() for future in waiting]
        assert {answer.status_code for answer in answers} == {200}
        for i, answer in enumerate(answers):
            want = alone[i // 4]
            assert [x["label"] for x in answer.json()] == [x["label"] for x in want]
        (worker,) = client.ps()
        assert worker.restarts == 1
        told = httpx.get(f"{server.url}/metrics", headers=server.admin).text
        assert 'lmaas_worker_restarts_total{model="digits:1"} 1.0' in told


def test_the_server_is_killed_and_starts_again(home: Path) -> None:
    with serving(home) as server:
        before = call(server).json()
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    with serving(home) as server:
        assert call(server).json() == before
    argv = [sys.executable, "-m", "lmaas", "--home", str(home), "fsck"]
    assert subprocess.run(argv, check=False, timeout=60).returncode == 0


def test_a_flipped_byte_is_found_and_the_version_before_serves(home: Path) -> None:
    import torch

    x = torch.rand(4, 784)
    model = torch.nn.Sequential(torch.nn.Linear(784, 10))
    second = lmaas.publish(model, name="digits", task="image-classification", sample=x, home=home)
    assert second.version == 2
    (weights,) = [f for f in second.files if f.path.endswith("model.bin")]
    (blob,) = [p for p in (home / "blobs").rglob("*") if p.name.endswith(weights.sha256[8:])]
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    with serving(home) as server:
        answer = call(server)
        assert answer.status_code == 200
        assert answer.headers["x-lmaas-model"] == "digits:1"
        url = f"{server.url}/models/digits:2"
        exact = httpx.post(url, content=png(), headers=server.caller, timeout=60)
        assert exact.status_code == 500
        assert weights.sha256 in exact.text


def test_a_full_disk_while_publishing(home: Path) -> None:
    import torch

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    model, x = torch.nn.Linear(1000, 1000), torch.rand(4, 1000)
    with serving(home, limit=limit) as server, Client(server.url, server.key) as client:
        with pytest.raises(StorageFull):
            client.publish(model, name="big", task="tensor", sample=x)
        assert client.models() == ["digits"]
        assert call(server).status_code == 200
        assert not list((home / "tmp").iterdir())


def test_a_port_that_is_taken(server: Running, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    argv = [sys.executable, "-m", "lmaas", "--home", str(tmp_path), "serve", "--port", port]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert port in done.stderr
    assert "--port" in done.stderr


def test_what_runs_at_sigterm_is_answered(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.make("slow", slow)
    models.close()
    with serving(tmp_path / "home") as server, Client(server.url, server.key) as client:

        def ask(_: int) -> int:
            url, body = f"{server.url}/models/slow", {"inputs": [float(STEPS_PER_S // 4)]}
            try:
                return httpx.post(url, json=body, headers=server.caller, timeout=60).status_code
            except httpx.TransportError:
                return 0

        assert ask(0) == 200
        with ThreadPoolExecutor(12) as threads:
            running = [threads.submit(ask, i) for i in range(4)]
            until(lambda: client.ps()[0].queued == 4)
            os.kill(server.pid, signal.SIGTERM)
            late = [threads.submit(ask, i) for i in range(8)]
            assert [future.result() for future in running] == [200] * 4
            assert {future.result() for future in late} <= {0, 200, 503}
        ended = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert ended
        assert ended.si_status == 0


@pytest.mark.parametrize("method", ["models/slow", "v2/models/slow/infer"])
def test_a_caller_that_hangs_up_is_not_waited_for(tmp_path: Path, method: str) -> None:
    models = Models(tmp_path)
    models.make("slow", slow)
    models.close()
    steps = STEPS_PER_S * 3
    inputs: object = [float(steps)]
    if method.startswith("v2"):
        inputs = [{"name": "steps", "shape": [1, 1], "datatype": "FP32", "data": [steps]}]
    with serving(tmp_path / "home") as server, Client(server.url, server.key) as client:
        assert client.predict("slow", [1.0])["y"] == [1.0]
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{server.url}/{method}",
                    json={"inputs": inputs},
                    headers=server.caller,
                    timeout=httpx.Timeout(30, read=0.7),
                )
        until(lambda: not client.ps()[0].queued, within_s=5)
        answer = client.predict("slow", [2.0])
        assert answer["y"] == [2.0]


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.make("slow", slow)
    models.close()
    with serving(tmp_path / "home", max_queue=3) as server:

        def ask(_: int) -> httpx.Response:
            body = {"inputs": [float(STEPS_PER_S // 4)]}
            url = f"{server.url}/models/slow"
            return httpx.post(url, json=body, headers=server.caller, timeout=60)

        assert ask(0).status_code == 200
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(ask, range(12)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert len(refused) + sum(a.status_code == 200 for a in answers) == 12
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "queue_full"
