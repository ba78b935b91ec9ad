"""Keras 3 on the TensorFlow or the torch backend, whichever the process uses.

A Keras model is also a module of its backend, so conversion is the backend framework's.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import (
    Facts,
    Form,
    Framework,
    by_name,
    takes_keywords,
    unnamed,
)
from lmaas.frameworks.source import SEED
from lmaas.runtime.native import keras_file
from lmaas.runtime.native.keras import call as native_call
from lmaas.runtime.native.keras import read, to_array
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec

FORMS = {"tensorflow": "lmaas.frameworks.tf_forms", "torch": "lmaas.frameworks.torch_forms"}


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

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`model.keras`; for a model that needs the user's own code, its weights alone.

        Those are `weights.safetensors`, in the order of `model.weights`, beside `module.json`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(model, folder)
        except (ModelRefused, ValueError, TypeError, NotImplementedError):
            (folder / keras_file.MODEL).unlink(missing_ok=True)
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
        path = folder / keras_file.MODEL if folder.is_dir() else folder
        if folder.is_dir() and not path.exists():
            return self._load_weights(folder, like)
        return read(path)

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

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs in inference mode."""
        import keras

        given = {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}
        return {name: to_array(value) for name, value in by_name(call(model, given)).items()}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Those of the backend's framework, and the `.keras` file itself."""
        import importlib

        import keras

        backend = keras.backend.backend()
        if backend not in FORMS:
            raise InvalidInput(
                f"Keras models on the {backend} backend cannot be compiled; supported are "
                f"{', '.join(FORMS)}.",
                hint="Save the model as .keras and push the file.",
            )
        forms: Iterator[Form] = importlib.import_module(FORMS[backend]).forms(
            model, call, arrays, outputs, axes
        )
        yield from forms
        if backend != "tensorflow":
            yield Form("keras", "as it is", lambda folder: _write(model, folder))

    def seed(self, model: Any) -> None:
        """Keras's own random numbers, and those that its layers have drawn so far."""
        import keras

        keras.utils.set_random_seed(SEED)
        for variable in getattr(model, "variables", ()):
            if "seed_generator_state" in str(variable.path):
                variable.assign(keras.ops.cast([0, SEED], variable.dtype))

    @contextmanager
    def kept(self, model: Any) -> Iterator[None]:
        """What its layers hold beside weights, such as states and seeds, and random numbers."""
        import random

        import keras

        state, drawn = random.getstate(), np.random.get_state()
        before = [
            (variable, keras.ops.convert_to_numpy(variable).copy())
            for variable in getattr(model, "non_trainable_variables", ())
        ]
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(drawn)
            for variable, value in before:
                variable.assign(value)

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """By the policies of its layers."""
        layers: list[Any] = list(getattr(model, "_flatten_layers", list)())
        kinds = {str(getattr(layer, "compute_dtype", "")) for layer in layers}
        return Facts("f16" if "float16" in kinds else "bf16" if "bfloat16" in kinds else "f32")

    def num_parameters(self, model: Any) -> int:
        """`model.count_params()`."""
        return int(model.count_params())


def call(model: Any, tensors: Mapping[str, Any], *, training: bool = False) -> Any:
    """The model's outputs.

    Keras takes one tensor, all in one list or dict, or what a user's own `call` names.
    """
    given = list(tensors)
    declared = getattr(model, "inputs", None)
    if not declared and len(given) > 1:
        parameters = [n for n in inspect.signature(model.call).parameters if n != "training"]
        if given != unnamed(len(given)) and takes_keywords(model.call, given):
            return model(**tensors, training=training)
        if len(parameters) >= len(given):
            return model(*tensors.values(), training=training)
    return native_call(model, dict(tensors), training=training)


def _write(model: Any, folder: Path) -> None:
    """`model.keras`. Raises ModelRefused for a model that is not safe to load."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / keras_file.MODEL)
    keras_file.check(folder / keras_file.MODEL)


FRAMEWORK: Framework = Keras()
