"""TensorFlow: a `tf.Module` that can be called, or a SavedModel."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.base import Framework, by_name, check_loss, check_training, outputs_are
from lmaas.runtime import ov
from lmaas.tasks import Row

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma and Ba, 2015)."""


class TensorFlow:
    """Verbs for `tf.Module` and loaded SavedModels."""

    name = "tensorflow"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a module, a function or a loaded SavedModel."""
        import tensorflow as tf

        return isinstance(model, tf.Module) or hasattr(model, "signatures")

    def version(self) -> str:
        """TensorFlow's version."""
        import tensorflow as tf

        return str(tf.__version__)

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The signature's names, or those of __call__'s parameters."""
        served = _served(model)
        if served is not None:
            return list(served.structured_input_signature[1])
        function = getattr(model.__call__, "python_function", model.__call__)
        names = [name for name in inspect.signature(function).parameters if name != "self"]
        if len(names) < len(sample):
            return [f"input_{i}" for i in range(len(sample))]
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

        check_training(x, y, epochs, batch_size)
        variables = list(model.trainable_variables)
        moments = [[tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(2)]
        step = tf.Variable(0.0)
        kind = outputs_are(np.asarray(model(tf.constant(x[:8]))))

        def step_on(inputs: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                outputs = model(inputs)
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

    def save(self, model: Any, folder: Path) -> None:
        """A SavedModel with the call as its serving signature once it was run."""
        import tensorflow as tf

        tf.saved_model.save(model, str(folder))

    def load(self, folder: Path, like: Any = None) -> Any:
        """The SavedModel in `folder`."""
        import tensorflow as tf

        return tf.saved_model.load(str(folder))

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs of the call or of the serving signature."""
        import tensorflow as tf

        outputs = _call(model, {name: tf.constant(a) for name, a in arrays.items()})
        return {name: np.asarray(value) for name, value in by_name(outputs).items()}

    def convert(self, model: Any, arrays: Row) -> Any:
        """The concrete function with a free batch axis."""
        import tensorflow as tf

        names = list(arrays)
        specs = [
            tf.TensorSpec([None, *a.shape[1:]] if a.ndim else [], a.dtype, name=name)
            for name, a in arrays.items()
        ]

        def call(*tensors: Any) -> dict[str, Any]:
            outputs = _call(model, dict(zip(names, tensors, strict=True)))
            return {name: tf.identity(value) for name, value in by_name(outputs).items()}

        try:
            function = tf.function(call).get_concrete_function(*specs)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError):
            fixed = [tf.TensorSpec(a.shape, a.dtype, name=n) for n, a in arrays.items()]
            function = tf.function(call).get_concrete_function(*fixed)
        return ov.load().convert_model(function)

    def num_parameters(self, model: Any) -> int:
        """Elements of all variables."""
        variables = getattr(model, "variables", ())
        return sum(int(np.prod(variable.shape)) for variable in variables)


def _served(model: Any) -> Any:
    signatures = getattr(model, "signatures", None)
    if not signatures:
        return None
    if "serving_default" in signatures:
        return signatures["serving_default"]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise InvalidInput(
        f"The SavedModel has the signatures {sorted(signatures)} and no serving_default.",
        hint="Save it with one signature.",
    )


def _call(model: Any, tensors: dict[str, Any]) -> Any:
    served = _served(model)
    return served(**tensors) if served is not None else model(*tensors.values())


FRAMEWORK: Framework = TensorFlow()
