"""Keras 3 on the TensorFlow or the torch backend, whichever the process uses.

A Keras model is also a module of its backend, so conversion is the backend framework's.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import refuse
from lmaas.frameworks.base import (
    Framework,
    by_name,
    check_loss,
    check_training,
    first_outputs,
    outputs_are,
    takes_keywords,
    unnamed,
)
from lmaas.tasks import Row
from lmaas.types import FrameworkName, TensorSpec

BACKENDS = {"tensorflow": "lmaas.frameworks.tensorflow", "torch": "lmaas.frameworks.pytorch"}


class Keras:
    """Verbs for `keras.Model`."""

    name: FrameworkName = "keras"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a Keras model."""
        import keras

        return isinstance(model, keras.Model)

    def version(self) -> str:
        """Keras's version and backend."""
        import keras

        return f"{keras.__version__} ({keras.backend.backend()})"

    def inputs(self, model: Any) -> list[TensorSpec]:
        """Those of its Input layers; a subclassed model has none until it is built."""
        return [
            TensorSpec(
                name=str(tensor.name),
                dtype=str(tensor.dtype),
                shape=tuple(-1 if size is None else int(size) for size in tensor.shape),
            )
            for tensor in getattr(model, "inputs", None) or []
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The names of the model's Input layers, else input_0, …."""
        names = [spec.name for spec in self.inputs(model)]
        return names if len(names) == len(sample) else unnamed(len(sample))

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

        x = check_training(x, y, epochs, batch_size)
        named = dict(zip(self.name_inputs(model, [x]), [x[:8]], strict=True))
        kind = outputs_are(first_outputs(self.run, model, named, y))
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

    def save(self, model: Any, folder: Path, arrays: Row) -> None:
        """`model.keras`; for a model that needs the user's own code, its weights alone.

        Those are `weights.safetensors`, in the order of `model.weights`, beside `module.json`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.keras"
        try:
            model.save(path)
            refuse.check_keras(path)
        except (ModelRefused, ValueError, TypeError, NotImplementedError):
            path.unlink(missing_ok=True)
            self._save_weights(model, folder)

    def _save_weights(self, model: Any, folder: Path) -> None:
        import keras
        from safetensors.numpy import save_file

        tensors = {
            f"{index}.{weight.path}": np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
            for index, weight in enumerate(model.weights)
        }
        save_file(tensors, folder / "weights.safetensors")
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        (folder / "module.json").write_text(json.dumps({"class": kind}))

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.keras` file at `folder`, or `model.keras` in it; in safe mode, uncompiled.

        Weights that were saved alone go into `like`.
        """
        import keras

        path = folder / "model.keras" if folder.is_dir() else folder
        if folder.is_dir() and not path.exists():
            return self._load_weights(folder, like)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise ModelRefused(
                f"Keras cannot load {path.name} safely: {str(error)[:500]}",
                hint="Publish the live model with lmaas.publish(model, …) instead.",
            ) from None

    def _load_weights(self, folder: Path, like: Any) -> Any:
        from safetensors.numpy import load_file

        if like is None:
            raise InvalidInput(
                "A model of a user's own class has no portable source.",
                hint="Give a built model of that class as like=….",
            )
        tensors = load_file(folder / "weights.safetensors")
        ordered = [tensors[name] for name in sorted(tensors, key=lambda n: int(n.split(".")[0]))]
        try:
            like.set_weights(ordered)
        except ValueError as error:
            raise InvalidInput(f"The weights are not those of this model: {error}.") from None
        return like

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs in inference mode."""
        import keras

        outputs = by_name(call(model, arrays))
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
        return importlib.import_module(BACKENDS[backend]).trace(model, call, arrays)

    def num_parameters(self, model: Any) -> int:
        """`model.count_params()`."""
        return int(model.count_params())


def call(model: Any, tensors: dict[str, Any], *, training: bool = False) -> Any:
    """The model's outputs.

    Keras takes one tensor, all in one list or dict, or what a user's own `call` names.
    """
    names, given = [str(t.name) for t in getattr(model, "inputs", None) or []], list(tensors)
    if len(given) == 1:
        return model(tensors[given[0]], training=training)
    if isinstance(getattr(model, "_inputs_struct", None), dict) and set(names) == set(given):
        return model(tensors, training=training)
    if not names and given != unnamed(len(given)) and takes_keywords(model.call, given):
        return model(**tensors, training=training)
    return model(list(tensors.values()), training=training)


FRAMEWORK: Framework = Keras()
