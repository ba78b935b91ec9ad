"""Detectors that people export, pushed as they are, served, and asked by stock clients."""

import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import detectors
import lmaas
from detectors import LABELS, scene
from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.service import Service
from lmaas.types import TENANT, DetectionSpec, ImageSpec, PushOptions
from servers import Running, serving

AS_IT_IS = ImageSpec(height=64, width=64, resize="letterbox", fill=0)
SQUARES = [("red", (16, 16, 32, 32)), ("blue", (48, 32, 64, 48))]
KINDS = ("grid", "rows", "queries")


def publish_detectors(home: Path) -> None:
    """A home with detectors of three heads, and one that takes an image at a time."""
    home.parent.mkdir(parents=True, exist_ok=True)
    for name, kind, batch in (*((kind, kind, None) for kind in KINDS), ("single", "rows", 1)):
        path = home.parent / f"{name}.onnx"
        detectors.export(path, kind, batch=batch)
        told = DetectionSpec(head="grid", nms=0.2) if kind == "grid" else None
        version = lmaas.publish(
            path, name=name, task="object-detection", labels=LABELS, image=AS_IT_IS,
            detection=told, home=home,
        )  # fmt: skip
        assert version.manifest.engine == "openvino"
        assert version.parity.passed("f32")


@pytest.fixture(scope="module")
def running(
    once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    made = once("detectors", publish_detectors)
    home = Path(shutil.copytree(made, tmp_path_factory.mktemp("copied") / "home"))
    with serving(home) as server:
        yield server


def told(answer: Any) -> set[tuple[Any, ...]]:
    """Labels and boxes, rounded."""
    return {
        (each["label"], *(round(each["box"][side]) for side in ("xmin", "ymin", "xmax", "ymax")))
        for each in json.loads(json.dumps(answer))
    }


def test_the_stock_client_finds_objects(running: Running, tmp_path: Path) -> None:
    from huggingface_hub import InferenceClient

    file = tmp_path / "scene.jpg"
    file.write_bytes(scene(SQUARES, form="JPEG", quality=100, subsampling=0))
    for kind in (*KINDS, "single"):
        url = f"{running.url}/models/{kind}"
        client = InferenceClient(model=url, token=running.call_key)
        raw = client.object_detection(scene(SQUARES))
        asked = client.object_detection(scene(SQUARES), threshold=0.5)
        by_path = client.object_detection(str(file), threshold=0.5)
        want = {(label, *box) for label, box in SQUARES}
        for answer in (raw, asked, by_path):
            assert told(answer) == want, kind
            assert all(0.9 < each.score <= 1 for each in answer)
        assert client.object_detection(scene([]), threshold=0.5) == []


def test_boxes_are_those_of_the_picture_that_was_sent(running: Running) -> None:
    """Of a picture four times as large and wide, which the input shows between bars."""
    large = scene([("green", (128, 64, 192, 128))], (256, 128))
    answer = httpx.post(
        f"{running.url}/models/grid/pipeline/object-detection",
        content=large,
        headers=running.caller,
    ).json()
    assert told(answer) == {("green", 128, 64, 192, 128)}


def test_lists_and_tensors(running: Running) -> None:
    files = [scene(SQUARES[:1]), scene([]), scene(SQUARES)]
    body = {"inputs": [base64.b64encode(file).decode() for file in files]}
    for kind in (*KINDS, "single"):
        answer = httpx.post(
            f"{running.url}/models/{kind}", json=body, headers=running.caller
        ).json()
        assert [len(each) for each in answer] == [1, 0, 2], kind
    pixels = np.zeros((2, 3, 64, 64), np.float32)
    pixels[1, 2, :16, :16] = 1
    data = {"name": "images", "datatype": "FP32", "shape": [2, 3, 64, 64]}
    answer = httpx.post(
        f"{running.url}/v2/models/grid/infer",
        json={"inputs": [{**data, "data": pixels.ravel().tolist()}]},
        headers=running.caller,
    ).json()
    (output,) = answer["outputs"]
    grid = np.array(output["data"]).reshape(output["shape"])
    assert grid.shape == (2, 7, detectors.CELLS)
    assert grid[0, 4:].max() < 0.01
    assert grid[1, 4:].max() > 0.9


def test_callers_share_batches_and_get_their_own_boxes(running: Running) -> None:
    def ask(number: int) -> bool:
        label = LABELS[number % 3]
        box = (16 * (number % 4), 16 * (number // 4 % 4), 0, 0)
        square = (label, (*box[:2], box[0] + 16, box[1] + 16))
        answer = httpx.post(
            f"{running.url}/models/queries", content=scene([square]), headers=running.caller
        ).json()
        return told(answer) == {(label, *square[1])}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(48)))


def test_bad_pictures_are_the_caller_s_and_end_no_worker(running: Running) -> None:
    url = f"{running.url}/models/grid"
    for body, status in (
        (b"no picture", 400),
        (scene(SQUARES)[:90], 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        (b'{"inputs": "AAAA"}', 400),
        (b'{"inputs": [[[NaN]]]}', 400),
    ):
        assert httpx.post(url, content=body, headers=running.caller).status_code == status
    assert told(httpx.post(url, content=scene(SQUARES), headers=running.caller).json())


def test_a_head_that_shapes_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.onnx"
    detectors.export(path, "rows")
    with pytest.raises(InvalidInput, match="how many classes"):
        lmaas.publish(path, name="m", task="object-detection", home=tmp_path / "home")
    options = PushOptions(
        name="m", task="object-detection", labels=LABELS, anchors=((0.5, 0.5, 1, 1),)
    )
    with closing(Service(Settings(home=str(tmp_path / "home")))) as service:
        work = service.catalog.push(TENANT, path, options)
        with pytest.raises(InvalidInput, match="belong to the head anchors"):
            asyncio.run(work)
