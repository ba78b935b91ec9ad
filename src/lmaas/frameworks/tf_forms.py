"""The forms of a TensorFlow or Keras-on-TensorFlow model: its graph, a SavedModel of it.

A graph holds its control flow, so nothing that a sample happens to be is frozen in it. Recurrent
layers are lists of tensors in a live graph, which only a SavedModel's lowering makes loops of.
"""

import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmaas.errors import InvalidInput
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Form, by_name
from lmaas.runtime import ov
from lmaas.runtime.native.saved_model import SERVING
from lmaas.tasks import Tensors

Call = Callable[[Any, Mapping[str, Any]], Any]


def forms(
    model: Any, call: Call, arrays: Tensors, outputs: Sequence[str], axes: Axes
) -> Iterator[Form]:
    """The ways to serve `model`, which `call` calls with tensors by name; see `base.Form`."""

    def saved(folder: Path) -> None:
        save(model, call, arrays, outputs, axes, folder)

    def read(_: Path) -> Any:
        with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
            saved(Path(scratch) / "model")
            converted = ov.load().convert_model(Path(scratch) / "model")
            # The weights lie in the folder, mapped: they are copied before it goes.
            return converted.clone()

    yield Form("openvino", "its graph", lambda _: trace(model, call, arrays, axes))
    yield Form("openvino", "a SavedModel", read)
    yield Form("tensorflow", "a SavedModel", saved)


def trace(model: Any, call: Call, arrays: Tensors, axes: Axes) -> Any:
    """An `openvino.Model` of `call(model, tensors by name)`."""
    graph = concrete(model, call, arrays, named=False, axes=axes)
    converted = ov.load().convert_model(graph)
    if len(converted.outputs) > len(graph.outputs):
        # The converter also gives out what nothing reads: sizes that Keras's layers ask for.
        wanted = {tensor.name for tensor in graph.outputs}
        for result in converted.get_results():
            if not wanted & set(result.input_value(0).get_names()):
                converted.remove_result(result)
    return converted


def concrete(
    model: Any, call: Call, arrays: Tensors, *, named: bool, axes: Axes | None = None
) -> Any:
    """The call as a graph, with the free axes free; without `axes` the batch axis, if it may be.

    Its outputs are by name, or in a list: a graph sorts what it has by name.
    """
    function = _function(model, call, list(arrays), named=named)
    fixed = [_spec(name, array, array.shape) for name, array in arrays.items()]
    if axes is not None:
        return function.get_concrete_function(*_free(arrays, axes))
    free = [_spec(name, a, (None, *a.shape[1:])) for name, a in arrays.items()]
    try:
        return function.get_concrete_function(*free)
    except Exception:  # noqa: BLE001 - whatever it raises: this model has a fixed batch size
        return _function(model, call, list(arrays), named=named).get_concrete_function(*fixed)


def _function(model: Any, call: Call, names: Sequence[str], *, named: bool) -> Any:
    import tensorflow as tf

    def function(*tensors: Any) -> Any:
        outputs = by_name(call(model, dict(zip(names, tensors, strict=True))))
        told = {
            name: tf.cast(v, tf.float32) if v.dtype == tf.bfloat16 else tf.identity(v)
            for name, v in outputs.items()
        }
        return told if named else list(told.values())

    return tf.function(function)


def _spec(name: str, array: Any, shape: Sequence[int | None]) -> Any:
    import tensorflow as tf

    kind = tf.string if array.dtype.kind == "O" else tf.dtypes.as_dtype(array.dtype)
    return tf.TensorSpec(shape, kind, name=name)


def _free(arrays: Tensors, axes: Axes) -> list[Any]:
    return [
        _spec(
            name,
            array,
            [None if label else n for n, label in zip(array.shape, axes.inputs[name], strict=True)],
        )
        for name, array in arrays.items()
    ]


def save(
    model: Any, call: Call, arrays: Tensors, outputs: Sequence[str], axes: Axes, folder: Path
) -> None:
    """A SavedModel whose serving signature is the call, with our names. Raises InvalidInput."""
    import tensorflow as tf

    names = list(arrays)

    def function(**tensors: Any) -> Any:
        got = by_name(call(model, {name: tensors[name] for name in names}))
        return {
            told: tf.cast(v, tf.float32) if v.dtype == tf.bfloat16 else tf.identity(v)
            for told, v in zip(outputs, got.values(), strict=True)
        }

    keyed = dict(zip(names, _free(arrays, axes), strict=True))
    write(model, tf.function(function).get_concrete_function(**keyed), folder)


def write(model: Any, graph: Any, folder: Path) -> None:
    """A SavedModel whose serving signature is `graph`, a call of `model`. Raises InvalidInput."""
    import tensorflow as tf

    holder = tf.Module()
    # What a function closes over must be an attribute of what is saved.
    holder.parts = [*graph.variables, *_closed_over(model)]
    with silent():
        try:
            tf.saved_model.save(holder, str(folder), signatures={SERVING: graph})
        except (AssertionError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"TensorFlow cannot save the model: {str(error)[:500]}",
                hint="Keep every tf.Variable and table in an attribute of the module.",
            ) from error


def _closed_over(model: Any) -> list[Any]:
    """The module itself, or the tables and modules that a function refers to."""
    from tensorflow.python.trackable.base import Trackable

    function = getattr(model, "python_function", None)
    if function is None:
        return [model]
    function = inspect.unwrap(function)
    inside = inspect.getclosurevars(getattr(function, "__func__", function))
    found = [*inside.nonlocals.values(), *inside.globals.values(), getattr(model, "__self__", None)]
    return [value for value in found if isinstance(value, Trackable)]


class silent:
    """TensorFlow's Python log, and its C++ one in this process, say nothing but errors."""

    def __enter__(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self._logger = logging.getLogger("absl")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
