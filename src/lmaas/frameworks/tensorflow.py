"""TensorFlow: a `tf.Module` that can be called, or a SavedModel."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput
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
from lmaas.runtime import ov
from lmaas.tasks import Row
from lmaas.types import FrameworkName, TensorSpec

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma and Ba, 2015)."""
SERVING = "serving_default"
"""TensorFlow's name for the signature that is served."""


class TensorFlow:
    """Verbs for `tf.Module` and loaded SavedModels."""

    name: FrameworkName = "tensorflow"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a module, a function or a loaded SavedModel."""
        import tensorflow as tf

        return isinstance(model, tf.Module) or hasattr(model, "signatures")

    def version(self) -> str:
        """TensorFlow's version."""
        import tensorflow as tf

        return str(tf.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """Those of the serving signature, or of the call's `input_signature`."""
        served = _served(model)
        if served is not None:
            declared = served.structured_input_signature[1].items()
        else:
            call = getattr(model, "__call__", None)  # noqa: B004 - the function itself is needed
            specs = getattr(call, "input_signature", None) or ()
            names = self.name_inputs(model, specs) if specs else []
            declared = list(zip(names, specs, strict=True))
        return [
            TensorSpec(
                name=name,
                dtype=spec.dtype.name,
                shape=tuple(-1 if size is None else size for size in spec.shape.as_list()),
            )
            for name, spec in declared
            if spec.shape.rank is not None
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The signature's names, or those of __call__'s parameters."""
        served = _served(model)
        if served is not None:
            return list(served.structured_input_signature[1])
        names = [n for n in inspect.signature(_function(model)).parameters if n != "self"]
        if len(names) < len(sample) or names == ["args", "kwargs"]:
            return unnamed(len(sample))
        return names[: len(sample)]

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
        """Train in place with Adam in one `tf.function`; see `base.Framework.fit`."""
        import tensorflow as tf

        x = check_training(x, y, epochs, batch_size)
        (name,) = self.name_inputs(model, [x])
        kind = outputs_are(first_outputs(self.run, model, {name: x[:8]}, y))
        variables = list(model.trainable_variables)
        moments = [[tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(2)]
        step = tf.Variable(0.0)

        def step_on(inputs: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                (outputs,) = by_name(model(inputs)).values()
                logits = outputs if kind == "logits" else tf.math.log(outputs + 1e-9)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
                )
            step.assign_add(1.0)
            rate = learning_rate * tf.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
            gradients = tape.gradient(loss, variables)
            for v, g, m, s in zip(variables, gradients, *moments, strict=True):
                m.assign(BETA_1 * m + (1 - BETA_1) * g)
                s.assign(BETA_2 * s + (1 - BETA_2) * g * g)
                v.assign_sub(rate * m / (tf.sqrt(s) + EPSILON))
            return loss

        train = tf.function(step_on, reduce_retracing=True)
        order = np.random.default_rng(seed)
        losses = []
        for epoch in range(epochs):
            total = 0.0
            for rows in np.array_split(order.permutation(len(x)), -(-len(x) // batch_size)):
                loss = train(tf.constant(x[rows]), tf.constant(y[rows].astype(np.int64)))
                total += float(loss) * len(rows)
            losses.append(check_loss(total / len(x), epoch, learning_rate))
        return losses

    def save(self, model: Any, folder: Path, arrays: Row) -> None:
        """A SavedModel that keeps its serving signature, or has the call as one."""
        import tensorflow as tf

        served = _served(model)
        try:
            signature = (
                served if served is not None else _concrete(model, _call, arrays, named=True)
            )
            tf.saved_model.save(model, str(folder), signatures={SERVING: signature})
        except (AssertionError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"TensorFlow cannot save the module: {str(error)[:500]}",
                hint="Keep every tf.Variable in an attribute of the module.",
            ) from error

    def load(self, folder: Path, like: Any = None) -> Any:
        """The SavedModel in `folder`."""
        import tensorflow as tf

        try:
            return tf.saved_model.load(str(folder))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as e:
            raise InvalidInput(
                f"{folder.name} is not a SavedModel that can be loaded: {str(e)[:500]}",
                hint="Save it again with tf.saved_model.save or model.export.",
            ) from None

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs of the call or of the serving signature."""
        import tensorflow as tf

        outputs = _call(model, {name: tf.constant(a) for name, a in arrays.items()})
        return {name: value.numpy() for name, value in by_name(outputs).items()}

    def convert(self, model: Any, arrays: Row) -> Any:
        """The concrete function with a free batch axis."""
        return trace(model, _call, arrays)

    def num_parameters(self, model: Any) -> int:
        """Elements of all variables."""
        variables = getattr(model, "variables", ())
        return sum(int(np.prod(variable.shape)) for variable in variables)


def trace(model: Any, call: Callable[[Any, dict[str, Any]], Any], arrays: Row) -> Any:
    """An `openvino.Model` of `call(model, tensors by name)`."""
    concrete = _concrete(model, call, arrays, named=False)
    converted = ov.load().convert_model(concrete)
    if len(converted.outputs) > len(concrete.outputs):
        # The converter also gives out what nothing reads: sizes that Keras's layers ask for.
        wanted = {tensor.name for tensor in concrete.outputs}
        for result in converted.get_results():
            if not wanted & set(result.input_value(0).get_names()):
                converted.remove_result(result)
    return converted


def _concrete(
    model: Any, call: Callable[[Any, dict[str, Any]], Any], arrays: Row, *, named: bool
) -> Any:
    """The call as a graph, with a free batch axis where the model allows that.

    Its outputs are by name, or in a list: a graph sorts what it has by name.
    """
    import tensorflow as tf

    names = list(arrays)

    def function(*tensors: Any) -> Any:
        outputs = by_name(call(model, dict(zip(names, tensors, strict=True))))
        outputs = {name: tf.identity(value) for name, value in outputs.items()}
        return outputs if named else list(outputs.values())

    free = [tf.TensorSpec([None, *a.shape[1:]], a.dtype, name=n) for n, a in arrays.items()]
    fixed = [tf.TensorSpec(a.shape, a.dtype, name=n) for n, a in arrays.items()]
    try:
        return tf.function(function).get_concrete_function(*free)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return tf.function(function).get_concrete_function(*fixed)


def _served(model: Any) -> Any:
    signatures = getattr(model, "signatures", None)
    if not signatures:
        return None
    if SERVING in signatures:
        return signatures[SERVING]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise InvalidInput(
        f"The SavedModel has the signatures {sorted(signatures)} and no serving_default.",
        hint="Save it with one signature.",
    )


def _call(model: Any, tensors: dict[str, Any]) -> Any:
    served = _served(model)
    if served is not None:
        return served(**tensors)
    if not callable(model):
        raise InvalidInput(
            "The SavedModel has no serving signature and cannot be called.",
            hint="Save it with signatures=…, or publish the live module.",
        )
    if takes_keywords(_function(model), list(tensors)):
        return model(**tensors)
    return model(*tensors.values())


def _function(model: Any) -> Any:
    call = type(model).__call__ if inspect.isfunction(type(model).__call__) else model.__call__
    return getattr(call, "python_function", call)


FRAMEWORK: Framework = TensorFlow()
