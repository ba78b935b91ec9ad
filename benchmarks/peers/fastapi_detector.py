"""A detector behind FastAPI and ONNX Runtime, as a tutorial has it.

Arguments: the ONNX file, the input's side, processes, ONNX Runtime's threads in each, port.
"""

import io
import os
import sys
from typing import Any

import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from benchmarks.vision_models import decoded, letterboxed


def create_app() -> FastAPI:
    """One process: its own session, and requests in FastAPI's threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
    # A thread that looks for work without pause takes it from the others here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
    )
    side = int(os.environ["PEER_SIDE"])
    app = FastAPI()

    def detect(body: bytes) -> Any:
        pixels, scale, left, top = letterboxed(body, side)
        (grid,) = session.run(None, {"pixels": pixels[None]})
        with Image.open(io.BytesIO(body)) as image:
            size = image.size
        return decoded(grid[0], scale, left, top, size)

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        return await run_in_threadpool(detect, await request.body())

    return app


if __name__ == "__main__":
    os.environ["PEER_MODEL"], os.environ["PEER_SIDE"] = sys.argv[1:3]
    os.environ["PEER_THREADS"] = sys.argv[4]
    uvicorn.run(
        "benchmarks.peers.fastapi_detector:create_app",
        factory=True,
        port=int(sys.argv[5]),
        workers=int(sys.argv[3]),
        log_level="warning",
    )
