"""The contract of an engine that answers arrays with arrays, and the table of all engines that run
something else than a language model.

An engine sees arrays and a folder, nothing of requests. `openvino` runs what was compiled; the
native ones run a model in its own framework, where no conversion of it was proven.
"""

import importlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.runtime.engine_spec import MIB, EngineMemory, EngineSpec
from lmaas.tasks.base import Tensors
from lmaas.types import EngineName, Precision, Signature, TensorSpec


class Engine(Protocol):
    """Runs one model. Used by one thread at a time."""

    def warm(self) -> None:
        """Import what `load` takes; it may be called before the files are there."""

    def load(
        self,
        folder: Path,
        signature: Signature,
        precision: Precision,
        threads: int,
    ) -> None:
        """Make the model in `folder` ready; `threads` 0 means all cores."""

    def infer(self, arrays: Tensors) -> Tensors:
        """Outputs by name for inputs by name. Raises InvalidInput when the model cannot run."""

    def cancel(self) -> None:
        """Make an `infer` that another thread is in fail soon, where that is possible."""

    def close(self) -> None:
        """Give back what the model holds."""


def _native(
    name: EngineName, made_by: str, needs: str, extra: str, overhead_bytes: int
) -> EngineSpec:
    return EngineSpec(
        name=name,
        made_by=f"lmaas.runtime.native.{made_by}",
        files="native",
        memory=EngineMemory(overhead_bytes=overhead_bytes),
        needs=(needs,),
        extra=extra,
    )


ENGINES: Final[dict[str, EngineSpec]] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="openvino",
            made_by="lmaas.runtime.openvino_engine:OpenVINOEngine",
            files="compiled",
            # Interpreter, numpy, OpenVINO and its threads: measured 90 to 110 MiB.
            memory=EngineMemory(overhead_bytes=128 * MIB),
            precisions=("f32", "bf16"),
            variants=True,
        ),
        EngineSpec(
            name="speech",
            made_by="lmaas.runtime.speech.engine:SpeechEngine",
            files="compiled",
            memory=EngineMemory(overhead_bytes=192 * MIB),
            accepts=("text",),
            worker="speech",
            needs=("openvino_genai",),
        ),
        EngineSpec(
            name="encoder-decoder",
            made_by="lmaas.runtime.sequence.engine:SequenceEngine",
            files="compiled",
            memory=EngineMemory(overhead_bytes=128 * MIB),
            accepts=("text", "audio", "image"),
            worker="sequences",
            precisions=("f32", "bf16"),
            variants=True,
        ),
        EngineSpec(
            name="pipeline",
            made_by="",
            files="compiled",
            memory=EngineMemory(overhead_bytes=0),  # those of its parts
            worker="pipeline",
        ),
        _native("torch", "pytorch:TorchEngine", "torch", "pytorch", 320 * MIB),
        _native("tensorflow", "tensorflow:TensorFlowEngine", "tensorflow", "tensorflow", 640 * MIB),
        _native("keras", "keras:KerasEngine", "keras", "keras", 640 * MIB),
        _native("onnxruntime", "onnx:OnnxRuntimeEngine", "onnxruntime", "onnx", 160 * MIB),
    )
}
"""Every engine that runs models other than language models; its class is imported when it is asked
for."""


def make_engine(name: str) -> Engine:
    """A new engine of arrays. Raises InvalidInput, which lists the known names."""
    known = sorted(spec.name for spec in ENGINES.values() if spec.worker == "arrays")
    if name not in known:
        raise InvalidInput(f"Unknown engine {name!r}; known: {', '.join(known)}.")
    module, _, attribute = ENGINES[name].made_by.partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)()
    return engine


def require_engine(name: EngineName, model: str) -> EngineSpec:
    """What `name` needs, all of it installed. Raises MissingExtra where it is not."""
    spec = ENGINES[name]
    for package in spec.needs:
        if find_spec(package) is None:
            raise MissingExtra(
                f"{model} is served by the engine {name}, and {package} is not installed here.",
                hint=f"pip install 'lmaas[{spec.extra}]'",
            )
    return spec


def shortest_run_s(
    infer: Callable[[Tensors], Tensors], signature: Signature, runs: int, enough_s: float
) -> float:
    """The shortest of some runs on the least that a model takes; one, where that takes `enough_s`.

    Raises InvalidInput where the model does not take it.
    """
    arrays = {spec.name: _least(spec, signature) for spec in signature.inputs}
    shortest = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        infer(arrays)
        shortest = min(shortest, time.perf_counter() - start)
        if shortest > enough_s:
            break
    return shortest


def _least(spec: TensorSpec, signature: Signature) -> np.ndarray:
    """An input of the least sizes, of zeros or the least numbers."""
    names = spec.axes or ("",) * len(spec.shape)
    shape = [
        size if size >= 0 else signature.axes.get(name, (1, None))[0]
        for size, name in zip(spec.shape, names, strict=True)
    ]
    if spec.dtype == strings.DTYPE:
        return np.full(shape, b"", object)
    return np.full(shape, max(0, spec.minimum or 0), spec.dtype)
