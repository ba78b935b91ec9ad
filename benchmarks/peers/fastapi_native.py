"""FastAPI and the model's own framework as a tutorial has it. Arguments: model, folder, port."""

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.native_models import answer, make_packed, make_texts

WORKERS = 2


class Inputs(BaseModel):
    """The body of a call."""

    inputs: dict[str, Any]


def create_app() -> FastAPI:
    """One worker process: its own copy of the model."""
    name = os.environ["PEER_MODEL"]
    if name == "packed":
        import torch

        torch.set_num_threads(1)
        model = make_packed()
    else:
        model = make_texts(Path(os.environ["PEER_FOLDER"]))
    app = FastAPI()

    @app.post("/predict")
    def predict(body: Inputs) -> Any:
        return {"outputs": {"output_0": answer(name, model, body.inputs).tolist()}}

    return app


if __name__ == "__main__":
    os.environ["PEER_MODEL"], os.environ["PEER_FOLDER"] = sys.argv[1:3]
    uvicorn.run(
        "benchmarks.peers.fastapi_native:create_app",
        factory=True,
        port=int(sys.argv[3]),
        workers=WORKERS,
        log_level="warning",
    )
