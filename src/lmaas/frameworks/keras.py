"""Keras 3 on the TensorFlow or the torch backend, whichever the process uses.

A Keras model is also a module of its backend, so conversion is the backend framework's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.base import Framework, by_name, check_loss, check_training, outputs_are
from lmaas.tasks import Row

BACKENDS = {"tensorflow": "lmaas.frameworks.tensorflow", "torch": "lmaas.frameworks.pytorch"}


class Keras:
    """Verbs for `keras.Model`."""

    name = "keras"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a Keras model."""
        import keras

        return isinstance(model, keras.Model)

    def version(self) -> str:
        """Keras's version and backend."""
        import keras

        return f"{keras.__version__} ({keras.backend.backend()})"

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The names of the model's Input layers, else input_0, …."""
        inputs = getattr(model, "inputs", None) or []
        if len(inputs) == len(sample):
            return [str(tensor.name) for tensor in inputs]
        return [f"input_{i}" for i in range(len(sample))]

    def fit(
        self,
        model: Any,
        x: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> list[float]:
        """Train in place with `model.fit`; see `base.Framework.fit`."""
        import keras

        check_training(x, y, epochs, batch_size)
        kind = outputs_are(keras.ops.convert_to_numpy(model(x[:8])))
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "logits"),
        )
        order = np.random.default_rng(seed)
        losses = []
        for epoch in range(epochs):
            rows = order.permutation(len(x))
            told = model.fit(x[rows], y[rows], batch_size=batch_size, shuffle=False, verbose=0)
            losses.append(check_loss(float(told.history["loss"][0]), epoch, learning_rate))
        return losses

    def save(self, model: Any, folder: Path) -> None:
        """`model.keras`."""
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / "model.keras")

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.keras` file at `folder`, or `model.keras` in it; in safe mode, uncompiled."""
        import keras

        path = folder / "model.keras" if folder.is_dir() else folder
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise ModelRefused(
                f"Keras cannot load {path.name} safely: {str(error)[:500]}",
                hint="Publish the live model with lmaas.publish(model, …) instead.",
            ) from None

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs in inference mode."""
        import keras

        outputs = by_name(model(_inputs(model, arrays), training=False))
        return {
            n: keras.ops.convert_to_numpy(keras.ops.stop_gradient(v)) for n, v in outputs.items()
        }

    def convert(self, model: Any, arrays: Row) -> Any:
        """Converted as a module of the backend."""
        import importlib

        import keras

        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise InvalidInput(
                f"Keras models on the {backend} backend cannot be compiled; supported are "
                f"{', '.join(BACKENDS)}.",
                hint="Save the model as .keras and push the file.",
            )
        framework: Framework = importlib.import_module(BACKENDS[backend]).FRAMEWORK
        if backend == "torch":
            return framework.convert(model, arrays)
        return framework.convert(_Call(model), arrays)

    def num_parameters(self, model: Any) -> int:
        """`model.count_params()`."""
        return int(model.count_params())


class _Call:
    """A Keras model called with its inputs one by one, in inference mode."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *tensors: Any) -> Any:
        given = tensors[0] if len(tensors) == 1 else list(tensors)
        return self._model(given, training=False)


def _inputs(model: Any, arrays: Row) -> Any:
    values = list(arrays.values())
    return values[0] if len(values) == 1 else values


FRAMEWORK: Framework = Keras()
