"""Readers of PaddleOCR's kind, pushed as they are: tiny ones made here, and the real weights."""

import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import lmaas
from lmaas.errors import InvalidInput
from lmaas.types import DetectionSpec, ImageSpec, ReadingSpec
from servers import Running, serving

GREYS = {"A": 20, "0": 60, "O": 220}
GROUND = 127
"""What the tiny reader reads: a character for each grey, in cells of eight columns."""
CELL = 8


def export_reader(path: Path, *, metadata: bool = True) -> None:
    """Write an ONNX file like PP-OCR's recognisers: (N, 3, 48, width) to (N, width / 8, 5)
    probabilities: blank, A, 0, O and the space. A character's is the nearer, the closer the mean
    of its cell is to its grey; the ground is blank.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # The scores are -(mean - grey)^2 up to what all classes share: linear in the mean.
    greys = np.array([GROUND, *GREYS.values(), 250], np.float32) / 127.5 - 1
    constants = {
        "mix": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "slopes": (2 * greys * 100)[None, None],
        "offsets": (-(greys**2) * 100)[None, None],
        "flat": np.array([0, -1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "mix"], ["grey"], kernel_shape=[1, 1]),
        helper.make_node(
            "AveragePool", ["grey"], ["cells"], kernel_shape=[48, CELL], strides=[48, CELL]
        ),
        helper.make_node("Reshape", ["cells", "flat"], ["means"]),
        helper.make_node("Mul", ["means", "slopes"], ["sloped"]),
        helper.make_node("Add", ["sloped", "offsets"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 48, "width"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", "steps", 5))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata:
        helper.set_model_props(model, {"character": "\n".join(GREYS)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export_finder(path: Path) -> None:
    """Write an ONNX file like PP-OCR's detectors: (N, 3, h, w) to a map (N, 1, h, w) of what is
    not the ground.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "mix": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "steep": np.array([24.0], np.float32),
        "low": np.array([-6.0], np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "mix"], ["grey"], kernel_shape=[1, 1]),
        helper.make_node("Abs", ["grey"], ["other"]),
        helper.make_node("Mul", ["other", "steep"], ["raised_"]),
        helper.make_node("Add", ["raised_", "low"], ["raised"]),
        helper.make_node("Sigmoid", ["raised"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "finder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, "h", "w"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 1, "h", "w"))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def strip(text: str, height: int = 48) -> Image.Image:
    """A line that the tiny reader reads: cells with the ground between them."""
    image = Image.new("RGB", (2 * CELL * len(text), height), (GROUND,) * 3)
    pen = ImageDraw.Draw(image)
    for place, letter in enumerate(text):
        grey = GREYS[letter]
        left = 2 * CELL * place
        pen.rectangle((left, 0, left + CELL - 1, height), (grey, grey, grey))
    return image


def solid(text: str) -> Image.Image:
    """The same without gaps, so that it is found as one place; between equals it cannot be read."""
    image = Image.new("RGB", (CELL * len(text), 24), (GROUND,) * 3)
    pen = ImageDraw.Draw(image)
    for place, letter in enumerate(text):
        grey = GREYS[letter]
        pen.rectangle((CELL * place, 0, CELL * place + CELL - 1, 24), (grey, grey, grey))
    return image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def page() -> bytes:
    """Two strips, one below the other."""
    whole = Image.new("RGB", (160, 96), (GROUND,) * 3)
    whole.paste(solid("A0AO"), (24, 16))
    whole.paste(solid("0A0"), (90, 60))
    return png(whole)


SMALL = ImageSpec(
    height=96, width=160, mean=(0.5,), std=(0.5,), resize="letterbox", fill=GROUND, order="BGR"
)


def publish_readers(home: Path) -> None:
    """A home with a tiny reader and a tiny finder, and a pipeline of both."""
    home.parent.mkdir(parents=True, exist_ok=True)
    export_reader(home.parent / "reader.onnx")
    export_finder(home.parent / "finder.onnx")
    reader = lmaas.publish(
        home.parent / "reader.onnx", name="tiny-reader", task="optical-character-recognition",
        home=home,
    )  # fmt: skip
    assert reader.manifest.signature.reading == ReadingSpec(characters=("A", "0", "O", " "))
    assert reader.manifest.signature.outputs_are == "probabilities"
    assert reader.manifest.signature.axes["width"] == (32, 3200)
    finder = lmaas.publish(
        home.parent / "finder.onnx", name="tiny-finder", task="object-detection", image=SMALL,
        detection=DetectionSpec(head="map", grow=0.1), home=home,
    )  # fmt: skip
    assert finder.manifest.signature.inputs[0].shape == (-1, 3, 96, 160)
    with lmaas.local(home) as client:
        client.make_pipeline(
            "tiny-pages", task="optical-character-recognition",
            parts={"detector": "tiny-finder", "reader": "tiny-reader"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def running(
    once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    made = once("tiny_readers", publish_readers)
    home = Path(shutil.copytree(made, tmp_path_factory.mktemp("copied") / "home"))
    with serving(home) as server:
        yield server


def test_a_reader_of_lines_of_any_width(running: Running) -> None:
    from huggingface_hub import InferenceClient

    url = f"{running.url}/models/tiny-reader"
    for text in ("A0O", "A", "OO00AA" * 5):
        (answer,) = httpx.post(url, content=png(strip(text)), headers=running.caller).json()
        assert answer["text"] == text
        assert len(answer["characters"]) == len(text)
        half = png(strip(text).resize((CELL * len(text), 24)))
        assert httpx.post(url, content=half, headers=running.caller).json()[0]["text"] == text
    several = [base64.b64encode(png(strip(text))).decode() for text in ("A0O", "OO00AA" * 5)]
    body = {"inputs": several, "parameters": {"pattern": "A0[0O]|X{30}"}}
    answers = httpx.post(url, json=body, headers=running.caller).json()
    assert [[each["text"] for each in image] for image in answers] == [["A0O"], ["OO00AA" * 5]]
    body = {"inputs": several[0], "parameters": {"pattern": "A00"}}
    (answer,) = httpx.post(url, json=body, headers=running.caller).json()
    assert answer["text"] == "A00"
    assert answer["characters"][2] < 0.1 < 0.9 < answer["characters"][1]
    client = InferenceClient(model=f"{url}/pipeline/image-to-text", token=running.call_key)
    assert client.image_to_text(png(strip("A0O"))).generated_text == "A0O"


def test_a_page_is_found_and_read(running: Running) -> None:
    from huggingface_hub import InferenceClient

    url = f"{running.url}/models/tiny-pages"
    found = httpx.post(url, content=page(), headers=running.caller).json()
    assert [each["text"] for each in found] == ["A0AO", "0A0"]
    for each, box in zip(found, ((24, 16, 56, 40), (90, 60, 114, 84)), strict=True):
        np.testing.assert_allclose(list(each["box"].values()), box, atol=2)
        assert each["detection_score"] > 0.9
        assert len(each["corners"]) == 4
    # The stock client's own method for boxes works too, and has the texts beside.
    client = InferenceClient(model=url, token=running.call_key)
    assert [each["text"] for each in client.object_detection(page())] == ["A0AO", "0A0"]
    body = {
        "inputs": base64.b64encode(page()).decode(),
        "parameters": {"pattern": "A0AO", "threshold": 0.5},
    }
    assert [each["text"] for each in httpx.post(url, json=body, headers=running.caller).json()] == [
        "A0AO"
    ]
    assert httpx.post(url, content=png(Image.new("RGB", (90, 90), (GROUND,) * 3)),
                      headers=running.caller).json() == []  # fmt: skip


def test_bad_input_is_the_caller_s_and_ends_no_worker(running: Running) -> None:
    for name in ("tiny-reader", "tiny-pages"):
        url = f"{running.url}/models/{name}"
        for body, status in (
            (b"no picture", 400),
            (page()[:90], 400),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
            (b'{"inputs": "AAAA"}', 400),
            (b'{"inputs": [1, 2]}', 400),
            (b'{"inputs": "", "parameters": {"pattern": "A*"}}', 400),
            (
                json.dumps({"inputs": [base64.b64encode(page()).decode()] * 100}).encode(), 413
            ),
        ):  # fmt: skip
            answer = httpx.post(url, content=body, headers=running.caller)
            assert answer.status_code == status, (name, body[:40], answer.text)
        good = json.dumps(
            {"inputs": base64.b64encode(page()).decode(), "parameters": {"pattern": "(A"}}
        )
        answer = httpx.post(url, content=good, headers=running.caller)
        assert answer.status_code == 400
        assert "ends in the middle" in answer.text
    wide = httpx.post(
        f"{running.url}/models/tiny-reader",
        content=png(Image.new("L", (60_000, 3), 60)),
        headers=running.caller,
    )
    assert wide.status_code == 200


def test_characters_in_a_file_of_their_own(tmp_path: Path) -> None:
    path, home = tmp_path / "reader.onnx", tmp_path / "home"
    export_reader(path, metadata=False)
    with pytest.raises(InvalidInput, match="characters must be given"):
        lmaas.publish(path, name="m", task="optical-character-recognition", home=home)
    (tmp_path / "keys.txt").write_text("A\r\n0\nO\n", newline="")
    (tmp_path / "line.png").write_bytes(png(strip("O0")))
    flags = [sys.executable, "-W", "ignore", "-m", "lmaas", "--home", str(home)]
    argv = [
        "push", str(path), "--name", "m", "--task", "optical-character-recognition",
        "--characters", str(tmp_path / "keys.txt"), "--reading", '{"pattern": "A0?"}', "--json",
    ]  # fmt: skip
    done = subprocess.run([*flags, *argv], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    reading: dict[str, Any] = json.loads(done.stdout)["manifest"]["signature"]["reading"]
    assert (reading["characters"], reading["pattern"]) == (["A", "0", "O", " "], "A0?")
    ask = ["predict", "m", str(tmp_path / "line.png")]
    done = subprocess.run([*flags, *ask], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "O0" in done.stdout


LINES = ("Invoice No. 2026-1187", "Total due: 1,284.50 EUR", "Please pay within 14 days.")


def letter() -> bytes:
    """A drawn page with three lines, and one that lies aslant."""
    whole = Image.new("RGB", (900, 700), "white")
    pen = ImageDraw.Draw(whole)
    for place, line in enumerate(LINES):
        pen.text((60, 80 + place * 70), line, (10, 10, 10), ImageFont.load_default(34))
    aslant = Image.new("RGB", (500, 80), "white")
    pen = ImageDraw.Draw(aslant)
    pen.text((10, 10), "Slanted WORDS 42", (0, 0, 120), ImageFont.load_default(40))
    whole.paste(aslant.rotate(20, expand=True, fillcolor="white"), (300, 380))
    return png(whole)


@pytest.mark.timeout(400)
def test_real_weights_read_a_page(tmp_path: Path) -> None:
    """PP-OCRv6, detector and recogniser, from the package rapidocr."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package rapidocr, which carries the weights, is not installed")
    (folder,) = found.submodule_search_locations
    models, home = Path(folder) / "models", tmp_path / "home"
    # Smaller than usual, so that less is compared.
    spec = ImageSpec(height=48, width=640, mean=(0.5,), std=(0.5,), resize="line", order="BGR")
    lmaas.publish(
        models / "PP-OCRv6_rec_small.onnx", name="reader", task="optical-character-recognition",
        image=spec, home=home,
    )  # fmt: skip
    lmaas.publish(
        models / "PP-OCRv6_det_small.onnx", name="finder", task="object-detection",
        image=msgspec.structs.replace(spec, height=320, width=416, resize="letterbox"), home=home,
    )  # fmt: skip
    with lmaas.local(home) as client:
        client.make_pipeline(
            "pages", task="optical-character-recognition",
            parts={"detector": "finder", "reader": "reader"},
        )  # fmt: skip
        answer = client.predict("pages", letter())
        (plate,) = client.predict("reader", png(written("WH 4821")), pattern="AA 0000")
    assert [each["text"] for each in answer] == [*LINES, "Slanted WORDS 42"]
    assert all(each["score"] > 0.9 for each in answer)
    corners = np.array(answer[-1]["corners"])
    slope = np.degrees(np.arctan2(*(corners[1] - corners[0])[::-1]))
    assert slope == pytest.approx(-20, abs=2)
    assert plate["text"] == "WH 4821"


def written(text: str) -> Image.Image:
    image = Image.new("RGB", (200, 56), "white")
    ImageDraw.Draw(image).text((8, 4), text, (0, 0, 0), ImageFont.load_default(40))
    return image
