"""A detector and a classifier of what it finds: one pipeline of LMaaS, and FastAPI with a loop."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import lmaas
from benchmarks import vision_parts as parts
from benchmarks.vision_models import (
    CROP,
    KINDS,
    LABELS,
    SHAPES,
    THRESHOLD,
    crops_of,
    decoded,
    letterboxed,
    make_classifier,
    make_detector,
    named,
    photo,
)
from benchmarks.vision_parts import Ask, Part, Ready
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, DetectionSpec, ImageSpec, PipelineBody

SHAPE: Final = SHAPES["large"]
REQUESTS: Final = 32
PEERS: Final = {"fastapi-ort-2x1": ("2", "1"), "fastapi-ort-1x2": ("1", "2")}
"""Processes, and threads in each."""
NEAR: Final = 0.15
"""Scores may differ by so much, and labels where the best one leads by less: crops are cut from
boxes that differ by a pixel, and ours may be computed in bf16."""
APART: Final = 0.1
"""Corners may differ by this share of the image's sides."""


def prepare(folder: Path) -> Ready:
    """Write both ONNX files, publish them and make the pipeline."""
    home, finds, names = folder / "home", folder / "detector.onnx", folder / "classifier.onnx"
    make_detector(SHAPE, finds)
    make_classifier(names)
    files = [photo(index, SHAPE.width, SHAPE.height) for index in range(4)]
    lmaas.publish(
        finds,
        name="detector",
        task="object-detection",
        labels=LABELS,
        image=ImageSpec(height=SHAPE.side, width=SHAPE.side, channels=3, resize="letterbox"),
        detection=DetectionSpec(head="centers", threshold=THRESHOLD),
        sample=np.stack([letterboxed(file, SHAPE.side)[0] for file in files]),
        home=home,
    )
    lmaas.publish(
        names,
        name="classifier",
        task="image-classification",
        labels=KINDS,
        image=ImageSpec(height=CROP, width=CROP, channels=3),
        outputs_are="logits",
        sample=crops_of(files[0], [(0, 0, 200, 150), (100, 100, 300, 300)]),
        home=home,
    )
    body = PipelineBody(
        name="pipeline",
        task="object-detection",
        parts={"detector": "detector", "classifier": "classifier"},
    )
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        asyncio.run(service.pipelines.make(TENANT, body))
    return Ready(folder, parts.key_of(home), None)


@contextlib.contextmanager
def running(ready: Ready, server: str) -> Iterator[Ask]:
    """One of the servers, when its answers are right."""
    headers, environment = {"Content-Type": "image/jpeg"}, {}
    if server in PEERS:
        argv = ["benchmarks.peers.fastapi_pipeline", str(ready.folder), *PEERS[server]]
        argv.append(str(parts.PORT))
        url = f"http://127.0.0.1:{parts.PORT}/predict"
    else:
        argv, url = parts.lmaas(ready.folder / "home"), f"http://127.0.0.1:{parts.PORT}"
        url += "/models/pipeline"
        headers["Authorization"] = f"Bearer {ready.key}"
        environment["LMAAS_PRECISION"] = "f32" if server == "lmaas-f32" else "auto"
    bodies = [photo(index, SHAPE.width, SHAPE.height) for index in range(REQUESTS)]
    with parts.serving(argv, ready.folder / f"{server}.log", **environment):
        told = [parts.answered(url, body, headers) for body in bodies]
        _check(server, told, _right(ready.folder, bodies))
        yield parts.asking(url, bodies, headers)


def _right(folder: Path, bodies: list[bytes]) -> list[list[dict[str, Any]]]:
    import onnxruntime

    finds = onnxruntime.InferenceSession(str(folder / "detector.onnx"))
    names = onnxruntime.InferenceSession(str(folder / "classifier.onnx"))
    found = []
    for body in bodies:
        pixels, scale, left, top = letterboxed(body, SHAPE.side)
        (grid,) = finds.run(None, {"pixels": pixels[None]})
        boxes = decoded(grid[0], scale, left, top, (SHAPE.width, SHAPE.height))
        found.append(named(body, boxes, lambda crops: names.run(None, {"pixels": crops})[0]))
    return found


def _check(server: str, told: list[Any], right: list[list[dict[str, Any]]]) -> None:
    """Each object that is surely there is found by both, and named alike where that is sure."""
    if sum(map(len, right)) < len(right):
        raise SystemExit("The detector finds next to nothing.")
    for ones, others in zip(told, right, strict=True):
        for here, there in ((ones, others), (others, ones)):
            for each in here:
                if each["detected"]["score"] >= THRESHOLD + NEAR and not any(
                    _same(each, other) for other in there
                ):
                    raise SystemExit(f"{server}: {each} is not among {there}")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    most = APART * max(one["box"].values())
    sure = min(each["score"] / each["detected"]["score"] for each in (one, other)) > 0.5 + NEAR
    return (
        one["detected"]["label"] == other["detected"]["label"]
        and abs(one["detected"]["score"] - other["detected"]["score"]) <= NEAR
        and all(abs(side - other["box"][name]) <= most for name, side in one["box"].items())
        and (one["label"] == other["label"] or not sure)
    )


PARTS: Final = {
    "pipeline": Part(
        does=f"Detector of {SHAPE.side} x {SHAPE.side}, then a classifier of each object of "
        f"{CROP} x {CROP}, JPEG {SHAPE.width} x {SHAPE.height}",
        servers=("lmaas", "lmaas-f32", *PEERS),
        callers=(1, 8, 32),
        goal=2.0,
        prepare=prepare,
        running=running,
    )
}
