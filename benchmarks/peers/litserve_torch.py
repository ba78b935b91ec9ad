"""LitServe with dynamic batching. Arguments: workload, weights folder, port."""

import sys
from pathlib import Path
from typing import Any

import litserve
import msgspec
import numpy as np
import torch
from fastapi import Request

from benchmarks.models import WORKLOADS, prepare

BATCH, TIMEOUT_S = 16, 0.005


class Api(litserve.LitAPI):
    """Decode, batch, predict, answer."""

    def setup(self, device: str) -> None:
        self.workload = WORKLOADS[sys.argv[1]]
        self.model = prepare(sys.argv[1], Path(sys.argv[2]))

    def decode_request(self, request: Request) -> np.ndarray:
        # LitServe hands over the parsed body, JSON or a form, whatever the annotation says.
        if "content" in request:
            return self.workload.sample(request["content"].file.read())
        return self.workload.sample(msgspec.json.encode(request))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.from_numpy(x)).numpy()

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Any:
        return self.workload.answer(output)


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[3]), generate_client_file=False, log_level="warning")
