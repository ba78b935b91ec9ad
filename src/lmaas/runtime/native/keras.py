"""The engine `keras`: a `.keras` file run by Keras on the backend that its process has."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime.native import keras_file
from lmaas.runtime.native.keras_file import MODEL
from lmaas.runtime.outputs import by_name
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature


def import_keras() -> Any:
    """Keras, on PyTorch where TensorFlow is not installed."""
    if find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    if keras.backend.backend() == "tensorflow":
        from lmaas.runtime.native.tensorflow import import_tensorflow

        import_tensorflow()
    return keras


class KerasEngine:
    """Runs `model.keras`."""

    def __init__(self) -> None:
        self._model: Any = None
        self._signature: Signature | None = None

    def warm(self) -> None:
        """Import Keras and its backend."""
        import_keras()

    def load(self, folder: Path, signature: Signature, precision: Precision, threads: int) -> None:
        """Read and check the model. Raises ModelRefused for one that may not be run."""
        self._model = read(folder / MODEL)
        self._signature = signature

    def infer(self, arrays: Tensors) -> Tensors:
        """Run the model once; outputs are copies that stay valid."""
        keras = import_keras()
        signature = self._signature
        assert signature is not None
        given = {
            spec.name: keras.ops.convert_to_tensor(np.array(arrays[spec.name]))
            for spec in signature.inputs
        }
        try:
            outputs = list(by_name(call(self._model, given)).values())
        except Exception as error:
            told = " ".join(str(error).split())[:300]
            raise InvalidInput(f"The model cannot run on this input: {told}") from error
        return {
            spec.name: to_array(value)
            for spec, value in zip(signature.outputs, outputs, strict=True)
        }

    def cancel(self) -> None:
        """A call of Keras runs to its end."""

    def close(self) -> None:
        """Drop the model."""
        self._model = None


def read(path: Path) -> Any:
    """The model in a `.keras` file: checked, in safe mode, uncompiled. Raises ModelRefused."""
    keras = import_keras()
    keras_file.check(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ModelRefused(
            f"Keras cannot load {path.name} safely: {str(error)[:500]}",
            hint="Publish the live model with lmaas.publish(model, …) instead.",
        ) from None


def call(model: Any, tensors: dict[str, Any], *, training: bool = False) -> Any:
    """The model's outputs.

    Keras takes one tensor, or all in one list or dict, as its Input layers are.
    """
    names, given = [str(t.name) for t in getattr(model, "inputs", None) or []], list(tensors)
    if len(given) == 1 and not isinstance(getattr(model, "_inputs_struct", None), dict):
        return model(tensors[given[0]], training=training)
    if isinstance(getattr(model, "_inputs_struct", None), dict) and set(names) == set(given):
        return model(tensors, training=training)
    return model(list(tensors.values()), training=training)


def to_array(value: Any) -> np.ndarray:
    """A tensor as numpy has it: bfloat16 becomes float32, texts become objects of bytes."""
    import keras

    kind = str(getattr(value, "dtype", ""))
    if "string" in kind:
        return strings.from_objects(value.numpy(), name="The output")
    if "bfloat16" in kind:
        value = keras.ops.cast(value, "float32")
    return np.array(keras.ops.convert_to_numpy(keras.ops.stop_gradient(value)))
