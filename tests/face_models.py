"""Faces for tests: red squares, each person with a pattern of its own, and an embedder for them.

The detector of `detectors` finds squares of one colour; its label for red ones is "face".
"""

import asyncio
import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from detectors import export
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, DetectionSpec, FaceRate, FaceSpec, PipelineBody, PushOptions

CELLS, SIDE = 4, 16
FACE = 64
"""A face in an image of 256 x 256 pixels: it fills a cell of the detector."""
SIZE = 4 * FACE
THRESHOLD, RATE = 0.75, 0.001
SPEC = FaceSpec(
    margin=0.0,
    pairs=50_000,
    rates=(
        FaceRate(false_accept_rate=0.01, threshold=0.6, true_accept_rate=1.0),
        FaceRate(false_accept_rate=RATE, threshold=THRESHOLD, true_accept_rate=0.99),
    ),
)


def face(person: int, noise: int = 0) -> np.ndarray:
    """A square of 64 x 64 pixels; `noise` makes another picture of the same person."""
    pattern = np.random.default_rng([3, person]).choice([0.55, 1.0], (CELLS, CELLS))
    pixels = np.zeros((FACE, FACE, 3))
    pixels[..., 0] = 250 * np.kron(pattern, np.ones((FACE // CELLS, FACE // CELLS)))
    if noise:
        pixels[..., 0] += np.random.default_rng([noise, person]).normal(0, 25, (FACE, FACE))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def picture(
    faces: Sequence[tuple[int, int, int]], *, noise: int = 0, other: tuple[int, int] | None = None
) -> bytes:
    """A PNG with the faces of people at places (column, row of four), and a green square."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for person, column, row in faces:
        part = pixels[row * FACE : (row + 1) * FACE, column * FACE : (column + 1) * FACE]
        part[:] = face(person, noise)
    if other is not None:
        column, row = other
        pixels[row * FACE : (row + 1) * FACE, column * FACE : (column + 1) * FACE, 1] = 255
    return as_png(pixels)


def as_png(pixels: np.ndarray) -> bytes:
    """Pixels as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def export_embedder(path: Path) -> None:
    """Write an ONNX file: the red of 4 x 4 cells of 16 x 16 pixels, less its mean; 16 numbers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    cell, count = SIDE // CELLS, CELLS * CELLS
    constants = {
        "red": np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1),
        "flat": np.array([0, count], np.int64),
        "centre": np.eye(count, dtype=np.float32) - np.float32(1 / count),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "red"], ["reds"], kernel_shape=[1, 1]),
            helper.make_node(
                "AveragePool", ["reds"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]
            ),
            helper.make_node("Reshape", ["cells", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "centre"], ["vector"]),
        ],
        "reds",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (None, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, (None, count))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def publish_faces(home: Path) -> None:
    """A home with the detector `finder`, the embedder `embedder`, and the pipeline `faces`."""
    home.mkdir(parents=True, exist_ok=True)
    files = home.parent / f"{home.name}-files"
    files.mkdir(exist_ok=True)
    export(files / "finder.onnx", "grid")
    export_embedder(files / "embedder.onnx")
    with closing(Service(Settings(home=str(home)))) as service:
        finder = PushOptions(
            name="finder",
            task="object-detection",
            labels=("face", "green", "blue"),
            detection=DetectionSpec(head="grid"),
        )
        embedder = PushOptions(name="embedder", task="face-recognition", face=SPEC)
        asyncio.run(service.catalog.push(TENANT, files / "finder.onnx", finder))
        asyncio.run(service.catalog.push(TENANT, files / "embedder.onnx", embedder))
        body = PipelineBody(
            name="faces",
            task="face-recognition",
            parts={"detector": "finder", "embedder": "embedder:1"},
        )
        asyncio.run(service.pipelines.make(TENANT, body))
