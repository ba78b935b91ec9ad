"""Our detector's network as ONNX: served by LMaaS, and behind FastAPI + ONNX Runtime."""

import contextlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

import lmaas
from benchmarks import vision_parts as parts
from benchmarks.vision_models import (
    LABELS,
    SHAPES,
    THRESHOLD,
    Shape,
    decoded,
    letterboxed,
    make_detector,
    photo,
)
from benchmarks.vision_parts import Ask, Part, Ready
from lmaas.types import DetectionSpec, ImageSpec

REQUESTS: Final = 32
PEERS: Final = {"fastapi-ort-2x1": ("2", "1"), "fastapi-ort-1x2": ("1", "2")}
"""Processes, and threads in each."""
SURE: Final = {"lmaas": 0.1, "lmaas-bf16": 0.1, "fastapi-ort-2x1": 1e-4, "fastapi-ort-1x2": 1e-4}
"""Objects whose score is at least so far from the threshold must be found, with a score that
differs by no more. By default LMaaS computes in bf16 where the processor gains from it and the
outputs stay nearly the same; "lmaas-bf16" is told to."""
APART: Final = 0.1
"""Corners may differ by this share of the image's sides."""


def prepare(shape: Shape, folder: Path) -> Ready:
    """Write the ONNX file and publish it."""
    home, path = folder / "home", folder / "detector.onnx"
    make_detector(shape, path)
    lmaas.publish(
        path,
        name="detector",
        task="object-detection",
        labels=LABELS,
        image=ImageSpec(height=shape.side, width=shape.side, channels=3, resize="letterbox"),
        detection=DetectionSpec(head="centers", threshold=THRESHOLD),
        sample=np.stack([letterboxed(_body(shape, i), shape.side)[0] for i in range(4)]),
        home=home,
    )
    return Ready(folder, parts.key_of(home), shape)


def _body(shape: Shape, index: int) -> bytes:
    return photo(index, shape.width, shape.height)


@contextlib.contextmanager
def running(ready: Ready, server: str) -> Iterator[Ask]:
    """One of the servers, when all its answers are right."""
    shape, headers, environment = ready.own, {"Content-Type": "image/jpeg"}, {}
    if server in PEERS:
        argv = ["benchmarks.peers.fastapi_detector", str(ready.folder / "detector.onnx")]
        argv += [str(shape.side), *PEERS[server], str(parts.PORT)]
        url = f"http://127.0.0.1:{parts.PORT}/predict"
    else:
        argv, url = parts.lmaas(ready.folder / "home"), f"http://127.0.0.1:{parts.PORT}"
        url += "/models/detector"
        headers["Authorization"] = f"Bearer {ready.key}"
        environment["LMAAS_PRECISION"] = "bf16" if server == "lmaas-bf16" else "auto"
    bodies = [_body(shape, index) for index in range(REQUESTS)]
    with parts.serving(argv, ready.folder / f"{server}.log", **environment):
        told = [parts.answered(url, body, headers) for body in bodies]
        _check(server, told, _right(ready, bodies))
        yield parts.asking(url, bodies, headers)


def _right(ready: Ready, bodies: list[bytes]) -> list[list[dict[str, Any]]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(ready.folder / "detector.onnx"))
    found = []
    for body in bodies:
        pixels, scale, left, top = letterboxed(body, ready.own.side)
        (grid,) = session.run(None, {"pixels": pixels[None]})
        size = Image.open(io.BytesIO(body)).size
        found.append(decoded(grid[0], scale, left, top, size))
    return found


def _check(server: str, told: list[Any], right: list[list[dict[str, Any]]]) -> None:
    """Each object whose score is sure is found by both."""
    near, count = SURE[server], sum(map(len, right))
    if count < len(right):
        raise SystemExit(f"The detector finds {count} objects in {len(right)} images.")
    for ones, others in zip(told, right, strict=True):
        for here, there in ((ones, others), (others, ones)):
            for each in here:
                if each["score"] >= THRESHOLD + near and not any(
                    _same(each, other, near) for other in there
                ):
                    raise SystemExit(f"{server}: {each} is not among {there}")


def _same(one: dict[str, Any], other: dict[str, Any], near: float) -> bool:
    sides = list(one["box"].values())
    most = APART * max(sides) if near > 1e-3 else 1.01  # whole pixels
    return (
        one["label"] == other["label"]
        and abs(one["score"] - other["score"]) <= near
        and all(abs(side - other["box"][name]) <= most for name, side in one["box"].items())
    )


def _part(name: str, shape: Shape) -> Part:
    return Part(
        does=f"Detector, JPEG {shape.width} x {shape.height}, input {shape.side} x {shape.side}",
        servers=("lmaas", "lmaas-bf16", *PEERS),
        callers=(1, 8, 32),
        goal=2.0,
        prepare=partial(prepare, shape),
        running=running,
    )


PARTS: Final = {f"detector-{name}": _part(name, shape) for name, shape in SHAPES.items()}
