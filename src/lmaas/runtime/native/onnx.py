"""The engine `onnxruntime`: an ONNX file as it is, texts and all that OpenVINO declines."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput, MissingExtra, ModelRefused
from lmaas.runtime.native import onnx_file
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature

MODEL = "model.onnx"


class OnnxRuntimeEngine:
    """Runs `model.onnx` on the CPU."""

    def __init__(self) -> None:
        self._session: Any = None
        self._signature: Signature | None = None

    def warm(self) -> None:
        """Import ONNX Runtime."""
        importlib.import_module("onnxruntime")

    def load(self, folder: Path, signature: Signature, precision: Precision, threads: int) -> None:
        """Read and check the model. Raises ModelRefused for one that may not be run."""
        onnx_file.check(folder / MODEL)
        self._session = session(folder / MODEL, threads)
        self._signature = signature

    def infer(self, arrays: Tensors) -> Tensors:
        """Run the model once; outputs are copies that stay valid."""
        assert self._signature is not None
        return ask(self._session, arrays, [spec.name for spec in self._signature.outputs])

    def cancel(self) -> None:
        """A call of ONNX Runtime runs to its end."""

    def close(self) -> None:
        """Drop the model."""
        self._session = None


def session(path: Path, threads: int = 0) -> Any:
    """What runs the file. Raises ModelRefused where ONNX Runtime does not."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra(
            "ONNX models need onnxruntime.", hint="pip install 'lmaas[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - each of its failures is a class of its own
        raise ModelRefused(f"{path.name} cannot be run: {error}.") from None


def ask(made: Any, arrays: Tensors, names: list[str]) -> Tensors:
    """The outputs called `names`. Raises InvalidInput where the model does not run."""
    given = {
        name: array if not strings.is_text(array) else _texts(array)
        for name, array in arrays.items()
    }
    known = [entry.name for entry in made.get_outputs()]
    # An output that is called like an input is renamed in the signature.
    asked = [name if name in known else name.removesuffix("_output") for name in names]
    try:
        found = made.run(asked, given)
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise InvalidInput(f"The model cannot run on this input: {told}") from error
    return {name: _array(value) for name, value in zip(names, found, strict=True)}


def _texts(array: np.ndarray) -> np.ndarray:
    try:
        texts: np.ndarray = np.vectorize(lambda e: e.decode(), otypes=[object])(array)
        return texts
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The model takes UTF-8 texts: {error}.") from None


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise InvalidInput(
            f"The model gives a {type(value).__name__}, which is no tensor.",
            hint="scikit-learn: convert with options={'zipmap': False}.",
        )
    if strings.is_text(value):
        return strings.from_objects(value, name="The output")
    return np.asarray(value)
