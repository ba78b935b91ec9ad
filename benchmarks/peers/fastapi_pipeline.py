"""A detector and a classifier behind FastAPI and ONNX Runtime: find, cut out, name all at once.

Arguments: the folder of both ONNX files, processes, ONNX Runtime's threads in each, port.
"""

import os
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.vision_models import SHAPES, decoded, letterboxed, named

SHAPE = SHAPES["large"]


def session_of(path: Path) -> onnxruntime.InferenceSession:
    """One model with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
    # A thread that looks for work without pause takes it from the others here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def create_app() -> FastAPI:
    """One process: its own sessions, and requests in FastAPI's threads."""
    folder = Path(os.environ["PEER_MODELS"])
    finds, names = (session_of(folder / f"{name}.onnx") for name in ("detector", "classifier"))
    app = FastAPI()

    def look(body: bytes) -> Any:
        pixels, scale, left, top = letterboxed(body, SHAPE.side)
        (grid,) = finds.run(None, {"pixels": pixels[None]})
        boxes = decoded(grid[0], scale, left, top, (SHAPE.width, SHAPE.height))
        return named(body, boxes, lambda crops: names.run(None, {"pixels": crops})[0])

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        return await run_in_threadpool(look, await request.body())

    return app


if __name__ == "__main__":
    os.environ["PEER_MODELS"], os.environ["PEER_THREADS"] = sys.argv[1], sys.argv[3]
    uvicorn.run(
        "benchmarks.peers.fastapi_pipeline:create_app",
        factory=True,
        port=int(sys.argv[4]),
        workers=int(sys.argv[2]),
        log_level="warning",
    )
