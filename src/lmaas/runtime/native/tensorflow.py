"""The engine `tensorflow`: a SavedModel run by TensorFlow itself, texts and tables included."""

import importlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime.native import saved_model
from lmaas.runtime.native.saved_model import SERVING
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature


def import_tensorflow() -> Any:
    """TensorFlow, silent about what is no error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = importlib.import_module("tensorflow")
    logging.getLogger("absl").setLevel(logging.ERROR)
    tensorflow.get_logger().setLevel(logging.ERROR)
    return tensorflow


class TensorFlowEngine:
    """Runs the serving signature of `saved_model.pb` on the CPU."""

    def __init__(self) -> None:
        self._model: Any = None
        self._call: Any = None
        self._signature: Signature | None = None

    def warm(self) -> None:
        """Import TensorFlow."""
        import_tensorflow()

    def load(self, folder: Path, signature: Signature, precision: Precision, threads: int) -> None:
        """Read and check the model. Raises ModelRefused for one that may not be run."""
        tf = import_tensorflow()
        saved_model.check(folder)
        try:
            # The signature dies with the model that it is of.
            self._model = tf.saved_model.load(str(folder))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as e:
            raise ModelRefused(f"native/ is not a SavedModel that loads: {str(e)[:300]}") from None
        if SERVING not in self._model.signatures:
            raise ModelRefused(f"The SavedModel has no {SERVING}.")
        self._call = self._model.signatures[SERVING]
        self._signature = signature

    def infer(self, arrays: Tensors) -> Tensors:
        """Run the model once; outputs are copies that stay valid."""
        tf = import_tensorflow()
        signature = self._signature
        assert signature is not None
        try:
            found = self._call(**{s.name: tf.constant(arrays[s.name]) for s in signature.inputs})
            return {s.name: _array(found[s.name].numpy()) for s in signature.outputs}
        except (tf.errors.OpError, ValueError, TypeError) as error:
            told = " ".join(str(error).split())[:300]
            raise InvalidInput(f"The model cannot run on this input: {told}") from error

    def cancel(self) -> None:
        """A call of TensorFlow runs to its end."""

    def close(self) -> None:
        """Drop the model."""
        self._model = self._call = None


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if strings.is_text(array):
        return strings.from_objects(array, name="The output")
    return np.array(array)
