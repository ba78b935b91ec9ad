"""Pipelines, made of models that are there, served in one worker and asked by stock clients."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from detectors import LABELS, scene
from ir_models import PARITY
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import InsufficientQuota, InvalidInput, LMaaSError, ModelNotFound, ModelRefused
from lmaas.runtime.engine import ENGINES
from lmaas.service import Service
from lmaas.serving.plan import WEIGHTS_FACTOR
from lmaas.serving.prepare import need_of, served_variant_name
from lmaas.tasks.labels import Box, Classified, Label
from lmaas.telling import lines_of
from lmaas.types import TENANT, CompressOptions, Payload, PipelineBody
from pipeline_parts import PARTS, add_parts, make_home
from servers import Running, serving

SQUARES = [("red", (16, 16, 32, 32)), ("blue", (48, 32, 64, 48))]
TASK = "object-detection"


@pytest.fixture(scope="module")
def home(once: Callable[..., Path]) -> Path:
    return once("pipelines", make_home)


@pytest.fixture(scope="module")
def running(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    copied = Path(shutil.copytree(home, tmp_path_factory.mktemp("copied") / "home"))
    with serving(copied) as server:
        yield server


@pytest.fixture
def service(home: Path, tmp_path: Path) -> Iterator[Service]:
    """A home of its own, without a server."""
    copied = shutil.copytree(home, tmp_path / "home")
    with closing(Service(Settings(home=str(copied)))) as this:
        yield this


def make(service: Service, tenant: str = TENANT, **changes: Any) -> Any:
    given = {"name": "again", "task": TASK, "parts": PARTS} | changes
    return asyncio.run(service.pipelines.make(tenant, msgspec.convert(given, PipelineBody)))


def told(answer: Any) -> set[tuple[Any, ...]]:
    """Labels of both models, and boxes."""
    return {
        (
            each["label"],
            each["detected"]["label"],
            *(round(each["box"][side]) for side in ("xmin", "ymin", "xmax", "ymax")),
        )
        for each in msgspec.to_builtins(answer)
    }


WANTED = {("warm", "red", *SQUARES[0][1]), ("cold", "blue", *SQUARES[1][1])}


def test_stock_and_own_clients_are_answered(running: Running, tmp_path: Path) -> None:
    from huggingface_hub import InferenceClient

    stock = InferenceClient(model=f"{running.url}/models/seer", token=running.call_key)
    found = stock.object_detection(scene(SQUARES))
    assert [(each.label, each.box["xmin"]) for each in found] == [("warm", 16), ("cold", 48)]
    assert len(stock.object_detection(scene(SQUARES), threshold=0.5)) == 2
    assert stock.object_detection(scene([])) == []
    with Client(running.url, running.call_key) as client:
        (one,) = client.predict("seer", scene(SQUARES[:1]))
        assert isinstance(one, Classified)
        assert (one.label, one.box, one.detected) == ("warm", Box(16, 16, 32, 32), Label("red", 1))
        assert 0.9 < one.score <= 1
    several = [base64.b64encode(scene(some)).decode() for some in (SQUARES, [], SQUARES[1:])]
    answer = httpx.post(
        f"{running.url}/models/seer/pipeline/{TASK}",
        json={"inputs": several},
        headers=running.caller,
    ).json()
    assert [told(each) for each in answer] == [WANTED, set(), {("cold", "blue", 48, 32, 64, 48)}]
    # In pixels of the picture that was sent: it is four times as large, and wide.
    large = scene([("green", (128, 64, 192, 128))], (256, 128))
    (one,) = httpx.post(f"{running.url}/models/seer", content=large, headers=running.caller).json()
    assert told([one]) & {(label, "green", 128, 64, 192, 128) for label in ("warm", "cold")}
    picture = tmp_path / "scene.png"
    picture.write_bytes(scene(SQUARES))
    argv = [sys.executable, "-m", "lmaas", "predict", "seer", str(picture)]
    argv += ["--draw", str(tmp_path / "out.png"), "--url", running.url, "--key", running.call_key]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "warm (red)" in done.stdout
    assert (tmp_path / "out.png").stat().st_size


def test_bad_requests_are_the_callers_and_end_no_worker(running: Running) -> None:
    url = f"{running.url}/models/seer"
    image = base64.b64encode(scene(SQUARES)).decode()
    cases: tuple[tuple[Any, int], ...] = (
        (b"no picture", 400),
        (scene(SQUARES)[:90], 400),
        ({"inputs": []}, 400),
        ({"inputs": [image, 3]}, 400),
        ({"inputs": [[0.0]]}, 400),
        ({"inputs": [image] * 9}, 413),
        ({"inputs": image, "parameters": {"pixels": True}}, 400),
        ({"inputs": image, "parameters": {"threshold": 2}}, 400),
        ({"inputs": image, "parameters": {"labels": 2}}, 400),
    )
    for body, status in cases:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = httpx.post(url, headers=running.caller, timeout=60, content=content)
        assert answer.status_code == status, answer.text
    data = {"name": "images", "datatype": "FP32", "shape": [1], "data": [0.0]}
    refused = httpx.post(
        f"{running.url}/v2/models/seer/infer", json={"inputs": [data]}, headers=running.caller
    )
    assert refused.status_code == 400
    assert "no tensors" in refused.text
    with Client(running.url, running.key) as client:
        (worker,) = [each for each in client.ps() if each.model == "seer:1"]
        assert worker.restarts == 0
        assert worker.engine == "pipeline"
        assert "detector (shapes:1) f32" in worker.reason
        assert "classifier (warmth:1) f32" in worker.reason


def test_callers_share_the_parts_and_get_their_own(running: Running) -> None:
    def ask(number: int) -> bool:
        label = LABELS[2 * (number % 2)]
        left, top = 16 * (number % 4), 16 * (number // 4 % 4)
        square = (label, (left, top, left + 16, top + 16))
        answer = httpx.post(
            f"{running.url}/models/seer", content=scene([square]), headers=running.caller
        ).json()
        return told(answer) == {("warm" if label == "red" else "cold", label, *square[1])}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(32)))


def test_made_remotely_and_on_the_command_line(running: Running) -> None:
    with Client(running.url, running.key) as client:
        made = client.make_pipeline("remote", task=TASK, parts=PARTS, card="Both.")
        assert made.ref == "remote:1"
        assert [part.model for part in made.manifest.parts] == ["shapes:1", "warmth:1"]
        assert told(client.predict("remote", scene(SQUARES))) == WANTED
        with pytest.raises(ModelNotFound, match=r"^parts\.detector: "):
            client.make_pipeline("remote", task=TASK, parts=PARTS | {"detector": "nobody:3"})
    with Client(running.url, running.call_key) as caller, pytest.raises(LMaaSError, match="admin"):
        caller.make_pipeline("mine", task=TASK, parts=PARTS)
    base = [sys.executable, "-m", "lmaas", "pipeline", "typed", "--task", TASK]
    there = ["--url", running.url, "--key", running.key, "--json"]
    parts = [f"--part={role}={model}" for role, model in PARTS.items()]
    done = subprocess.run(
        [*base, *parts, *there], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["manifest"]["name"] == "typed"
    for bad in (["--part", "detector"], [*parts, "--part", "detector=shapes"]):
        refused = subprocess.run(
            [*base, *bad, *there], capture_output=True, text=True, timeout=60, check=False
        )
        assert refused.returncode == 2


def test_a_worker_is_killed_between_its_parts(running: Running) -> None:
    def ask(_: int) -> Any:
        url = f"{running.url}/models/seer"
        return httpx.post(url, content=scene(SQUARES), headers=running.caller, timeout=60).json()

    with Client(running.url, running.key) as client, ThreadPoolExecutor(30) as threads:
        client.predict("seer", scene(SQUARES))
        waiting = [threads.submit(ask, number) for number in range(120)]
        while True:
            (worker,) = [each for each in client.ps() if each.model == "seer:1"]
            if worker.queued or all(each.done() for each in waiting):
                break
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        assert all(told(each.result()) == WANTED for each in waiting)


def test_parts_may_go_and_no_byte_lies_twice(service: Service) -> None:
    version = service.catalog.get(TENANT, "seer")
    stored = {file.sha256 for file in version.files}
    for name in ("shapes", "warmth"):
        stored -= {file.sha256 for file in service.catalog.get(TENANT, name).files}
    assert not stored
    assert {file.path for file in version.files} == {
        f"compiled/{role}/model.{end}" for role in PARTS for end in ("bin", "xml")
    }

    async def after() -> Any:
        async with service.running():
            service.catalog.remove(TENANT, "shapes", force=True)
            service.catalog.remove(TENANT, "warmth", force=True)
            loaded = await service.find(TENANT, "seer")
            return await service.router.call(loaded, "seer", Payload(body=scene(SQUARES)))

    _, answer = asyncio.run(after())
    assert told(json.loads(answer.body)) == WANTED
    assert service.fsck().ok


def test_what_is_told_of_a_pipeline(service: Service) -> None:
    version = service.catalog.get(TENANT, "seer")
    manifest = version.manifest
    assert (manifest.framework, manifest.engine) == ("pipeline", "pipeline")
    assert manifest.num_parameters == 18
    assert manifest.signature.labels == ("warm", "cold")
    assert manifest.lineage.parent == "shapes:1, warmth:1"
    assert all(part.parity == PARITY for part in manifest.parts)
    card = manifest.card
    assert "> Warm or cold" in card
    assert "| finds objects | shapes:1 | object-detection | onnx | openvino | 9 |" in card
    lines = lines_of(version)
    assert "pipeline of 2 models" in lines[0]
    assert any(line.startswith("classifier: warmth:1") for line in lines)
    assert not any("did not reach" in line for line in lines)  # all parts were asked
    need = need_of(version, service.settings, 1 << 40, lambda _: version)
    overhead = ENGINES["openvino"].memory.overhead_bytes
    assert need.memory_bytes == overhead + int(version.compiled_bytes * WEIGHTS_FACTOR)
    record = need.record(Path("/work"))
    assert [part.folder for part in record.parts] == [
        f"/work/model/compiled/{role}" for role in ("detector", "classifier")
    ]
    name = served_variant_name(version, service.settings)
    assert name.startswith(f"pipeline {record.precision} source ")


def test_what_cannot_be_a_pipeline_is_refused_by_name(service: Service) -> None:
    for changes, param, says in (
        ({"task": "tabular"}, "task", "not made of others"),
        ({"task": "no-task"}, "task", "Unknown task"),
        ({"parts": PARTS | {"reader": "warmth"}}, "parts.reader", "no part 'reader'"),
        ({"parts": {"detector": "shapes"}}, "parts.classifier", "needs a classifier"),
        ({"parts": PARTS | {"classifier": "shapes"}}, "parts.classifier", "must be a model for"),
        ({"parts": PARTS | {"detector": "seer"}}, "parts.detector", "is a pipeline itself"),
        ({"parts": PARTS | {"detector": "shapes:9"}}, "parts.detector", "shapes"),
        ({"name": "No Name"}, None, "name"),
    ):
        with pytest.raises(LMaaSError, match=says) as refused:
            make(service, **changes)
        if param is not None:
            assert refused.value.param == param, changes
    # Another tenant's models are not there, whatever they are called.
    with pytest.raises(ModelNotFound):
        make(service, tenant="acme")
    add_parts(service.registry, "acme")
    assert make(service, tenant="acme").tenant == "acme"
    with pytest.raises(ModelNotFound):
        service.catalog.get(TENANT, "again")
    assert not list((service.home / "tmp").iterdir())


def test_a_tenants_disk_is_bounded(home: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(home, tmp_path / "home")
    with closing(Service(Settings(home=str(copied), tenant_disk_bytes=1000))) as service:
        add_parts(service.registry, "acme")
        with pytest.raises(InsufficientQuota):
            make(service, tenant="acme")


def test_a_pipeline_is_not_compressed_trained_on_or_pushed(
    service: Service, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="is a pipeline: it has no files to compress"):
        asyncio.run(service.compressor.compress(TENANT, "seer", CompressOptions(to="int8")))
    version = service.catalog.get(TENANT, "seer")
    package = service.registry.unpack_package(version, tmp_path / "package")
    with pytest.raises(ModelRefused, match="parts of a pipeline"):
        asyncio.run(service.catalog.push(TENANT, package))


def test_a_part_that_cannot_be_loaded_registers_nothing(service: Service) -> None:
    version = service.catalog.get(TENANT, "shapes")
    graph = next(file for file in version.files if file.path.endswith(".xml"))
    path = service.registry.blobs.path(graph.sha256)
    path.chmod(0o600)
    path.write_bytes(b"<not a model>")
    with pytest.raises(LMaaSError, match=graph.sha256):
        make(service)
    with pytest.raises(ModelNotFound):
        service.catalog.get(TENANT, "again")
