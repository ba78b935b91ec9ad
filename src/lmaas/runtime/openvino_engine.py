"""The engine `openvino`: runs a compiled model on the CPU.

It has a free batch axis, one stream and all cores: measured against fixed batch sizes
and against one stream a core, this is as fast or faster for all model sizes (docs/log.md), and a
batch size not seen before costs milliseconds, not a compile. A model that takes less than
`ONE_THREAD_BELOW_S` runs on the calling thread alone: waking the others would cost more than they
do.
"""

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.runtime import ov
from lmaas.runtime.engine import shortest_run_s
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature

log = logging.getLogger(__name__)

ONE_THREAD_BELOW_S: Final = 0.0003
WARM_RUNS: Final = 3


class OpenVINOEngine:
    """Runs `model.xml` and `model.bin` with OpenVINO on the CPU."""

    def __init__(self) -> None:
        self._request: Any = None
        self._tensor: Any = None
        self._inputs: dict[str, np.dtype[Any]] = {}
        self._held: list[np.ndarray] = []
        self._outputs: list[tuple[str, int]] = []

    def warm(self) -> None:
        """Import OpenVINO."""
        ov.load()

    def load(
        self,
        folder: Path,
        signature: Signature,
        precision: Precision,
        threads: int,
    ) -> None:
        """Compile the model and run it, so that the first request finds it warm."""
        took_s = self._compile(folder, signature, precision, threads)
        if not threads and took_s is not None and took_s < ONE_THREAD_BELOW_S:
            self._compile(folder, signature, precision, 1)

    def _compile(
        self, folder: Path, signature: Signature, precision: Precision, threads: int
    ) -> float | None:
        """Make the infer request; the shortest of some warm runs where the model takes zeros."""
        openvino = ov.load()
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = ov.core().compile_model(folder / "model.xml", "CPU", config)
        except RuntimeError as error:
            raise LMaaSError(
                f"OpenVINO cannot load the compiled model: {_gist(error)}.",
                hint="Publish the model again.",
            ) from error
        known = {name for port in compiled.inputs for name in port.get_names()}
        missing = [spec.name for spec in signature.inputs if spec.name not in known]
        if missing:
            raise LMaaSError(
                f"The compiled model has inputs {sorted(known)}; the signature also names "
                f"{missing}.",
                hint="Publish the model again.",
            )
        self._inputs = {spec.name: np.dtype(spec.dtype) for spec in signature.inputs}
        self._outputs = [(s.name, _output_index(compiled, s.name)) for s in signature.outputs]
        self._request, self._tensor = compiled.create_infer_request(), openvino.Tensor
        return self._warm(signature)

    def infer(self, arrays: Tensors) -> Tensors:
        """Run the model once; outputs are copies that stay valid."""
        request = self._request
        # OpenVINO reads the arrays' own memory and keeps none of them alive, and `require` copies
        # what is read-only, as the arrays of a request's body are: all are held until the next run.
        self._held = [np.require(arrays[n], t, ("C", "W")) for n, t in self._inputs.items()]
        try:
            for name, array in zip(self._inputs, self._held, strict=True):
                request.set_tensor(name, self._tensor(array, shared_memory=True))
            request.infer()
            return {
                name: np.array(request.get_output_tensor(index).data)
                for name, index in self._outputs
            }
        except RuntimeError as error:
            raise InvalidInput(f"The model cannot run on this input: {_gist(error)}.") from error

    def cancel(self) -> None:
        """OpenVINO stops between two operations of the graph; a Loop counts as one."""
        self._request.cancel()

    def close(self) -> None:
        """Drop the compiled model."""
        self._request = None
        self._held = []

    def _warm(self, signature: Signature) -> float | None:
        try:
            return shortest_run_s(self.infer, signature, WARM_RUNS, ONE_THREAD_BELOW_S * 100)
        except InvalidInput as error:
            log.info("The model does not take zeros as a warm-up: %s", error)
            return None


def _output_index(compiled: Any, name: str) -> int:
    for index, port in enumerate(compiled.outputs):
        if name in port.get_names():
            return index
    known = [sorted(port.get_names()) for port in compiled.outputs]
    raise LMaaSError(
        f"The compiled model has outputs {known}; the signature names {name!r}.",
        hint="Publish the model again.",
    )


def _gist(error: Exception) -> str:
    """The last line of an OpenVINO error says what happened; those before it say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
