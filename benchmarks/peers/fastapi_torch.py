"""FastAPI and PyTorch as a tutorial would write it. Arguments: workload, weights folder, port."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

from benchmarks.models import WORKLOADS, prepare

WORKERS = 2


class Inputs(BaseModel):
    """The body of a JSON call."""

    inputs: list[float]


def create_app() -> FastAPI:
    """One worker process: its own copy of the model, one thread for torch."""
    name, folder = os.environ["PEER_WORKLOAD"], Path(os.environ["PEER_FOLDER"])
    torch.set_num_threads(1)
    workload, model = WORKLOADS[name], prepare(name, folder)
    app = FastAPI()

    def run(sample: np.ndarray) -> Any:
        with torch.inference_mode():
            logits = model(torch.from_numpy(sample)[None]).numpy()
        return workload.answer(logits[0])

    @app.post("/predict")
    async def predict(body: Inputs) -> Any:
        return run(np.array(body.inputs, np.int64 if name == "bert" else np.float32))

    @app.post("/predict/file")
    async def predict_file(request: Request) -> Any:
        return run(workload.sample(await request.body()))

    return app


if __name__ == "__main__":
    os.environ["PEER_WORKLOAD"], os.environ["PEER_FOLDER"] = sys.argv[1:3]
    uvicorn.run(
        "benchmarks.peers.fastapi_torch:create_app",
        factory=True,
        port=int(sys.argv[3]),
        workers=WORKERS,
        log_level="warning",
    )
