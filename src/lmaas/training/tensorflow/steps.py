"""A network's step and evaluation as TensorFlow graphs: gradients, clipping, the update.

Each is traced once for each shape of a sample, with a free batch axis (and, where a feed says so, a
free length), whichever batch comes first:
a graph for one batch size can differ in the last bits from one for all. Owns the optimizer's
variables. It knows no files, workers or random numbers.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf

from lmaas.frameworks.base import by_name
from lmaas.recipe import Recipe
from lmaas.training.base import Feed, Loss
from lmaas.training.losses import summed
from lmaas.training.tensorflow.network import Network

CLIP_EPSILON = 1e-6
"""Added to the norm, as PyTorch does."""


class Numbers(msgspec.Struct, kw_only=True):
    """What a step is given beside its samples."""

    share: float
    """1 over the weight of the whole batch."""
    rate: float
    """The learning rate; Adam's with the correction of both moments."""
    epsilon: float
    """Adam's, with the correction of the second moment."""
    decay: float
    """The learning rate times the weight decay."""


Tensors = tuple[list[Any], list[Any]]
"""Inputs and targets."""


class Steps:
    """The graphs of one network, loss and optimizer."""

    def __init__(self, network: Network, loss: Loss, recipe: Recipe) -> None:
        self._network, self._loss = network, loss
        self._choice, self._clip_norm = recipe.optimizer, recipe.clip_norm
        self._bf16 = recipe.precision == "bf16"
        self._trained = list(network.trained.values())
        fields: tuple[str, ...] = ("first", "second")
        if self._choice.name == "sgd":
            fields = ("momentum",) if self._choice.momentum else ()
        self.slots = {
            field: {name: _zeros(v) for name, v in network.trained.items()} for field in fields
        }
        """The optimizer's variables, by what they are and by the weight's name."""
        self.count = sum(int(np.prod(v.shape)) for v in self._trained)
        self._traced: dict[Any, _Graphs] = {}
        signature = [_spec([self.count + 1]), _spec([len(Numbers.__struct_fields__)])]
        self._update = _graph(self._updated, signature)

    def numbers(self, learning_rate: float, weight: float, step: int) -> Any:
        """The numbers of a step; `step` counts from 1. Adam as in Kingma and Ba, 2015."""
        choice, rate, epsilon = self._choice, learning_rate, 0.0
        if choice.name != "sgd":
            second = (1 - choice.beta2**step) ** 0.5
            rate *= second / (1 - choice.beta1**step)
            epsilon = choice.epsilon * second
        decay = learning_rate * choice.weight_decay
        given = Numbers(share=1 / weight, rate=rate, epsilon=epsilon, decay=decay)
        return tf.constant(msgspec.structs.astuple(given), tf.float32)

    def whole(self, feed: Feed, numbers: Any, random: Sequence[Any]) -> Any:
        """One step from one feed; the loss and the norm of the gradients.

        Where one of them is no finite number, no weight has changed.
        """
        return self._graphs(feed).whole(*_tensors(feed), numbers, random)

    def part(self, feed: Feed, numbers: Any, random: Sequence[Any] | None) -> Any:
        """The gradients of a feed, one after the other, and its loss. `random`: of a new step."""
        graphs = self._graphs(feed)
        if random is None:
            return graphs.part(*_tensors(feed), numbers)
        return graphs.first(*_tensors(feed), numbers, random)

    def update(self, gradients: Any, numbers: Any) -> Any:
        """A step along added up parts; else as `whole`."""
        return self._update(gradients, numbers)

    def look(self, feed: Feed) -> tuple[Any, dict[str, Any]]:
        """The loss and the outputs in inference mode."""
        graphs = self._graphs(feed)
        loss, outputs = graphs.look(*_tensors(feed))
        return loss, dict(zip(graphs.outputs, outputs, strict=True))

    def _graphs(self, feed: Feed) -> "_Graphs":
        arrays = (feed.inputs, feed.targets)
        key = tuple(
            (name, array.dtype.str, _shape(array, feed))
            for row in arrays
            for name, array in row.items()
        )
        if key not in self._traced:
            self._traced[key] = _Graphs(self, feed)
        return self._traced[key]

    def forward(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        """The outputs by name, traced."""
        if not self._bf16:
            return by_name(self._network.call(inputs, training))
        with self._network.in_bf16():
            return by_name(self._network.call(inputs, training))

    def lost(self, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
        """The summed loss of a feed, traced; each sample bears what the layers add."""
        total = summed(self._loss, "tensorflow", outputs, targets)
        penalty = self._network.penalty()
        if penalty is None:
            return total
        rows = tf.shape(next(iter(targets.values())))[0]
        return total + tf.cast(penalty, tf.float32) * tf.cast(rows, tf.float32)

    def gradients(self, inputs: dict[str, Any], targets: dict[str, Any], numbers: Any) -> Any:
        """The loss and a gradient for each trained variable, traced."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([value_of(v) for v in self._trained])
            loss = self.lost(self.forward(inputs, training=True), targets)
            scaled = loss * numbers[0]
        found = tape.gradient(scaled, [value_of(v) for v in self._trained])
        return loss, [
            tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
            for v, g in zip(self._trained, found, strict=True)
        ]

    def moved(self, loss: Any, gradients: list[Any], numbers: Any) -> Any:
        """Change the weights, traced; the loss and the norm."""
        # TensorFlow's ReLU makes 0 of NaN, so that the loss alone does not tell.
        norm = tf.cast(tf.linalg.global_norm(gradients), tf.float32)
        if self._clip_norm is not None:
            scale = tf.minimum(1.0, self._clip_norm / (norm + CLIP_EPSILON))
            gradients = [g * tf.cast(scale, g.dtype) for g in gradients]

        def move() -> Any:
            for index, (variable, gradient) in enumerate(
                zip(self._trained, gradients, strict=True)
            ):
                self._move(variable, gradient, index, numbers)
            return True

        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        tf.cond(finite, move, lambda: False)
        return tf.stack([loss, norm])

    def _move(self, variable: Any, gradient: Any, index: int, numbers: Any) -> None:
        choice, value = self._choice, value_of(variable)
        _, rate, epsilon, decay = (tf.cast(numbers[i], value.dtype) for i in range(4))
        if choice.weight_decay:
            value.assign_sub(value * decay)
        slots = [list(by_weight.values())[index].handle for by_weight in self.slots.values()]
        if choice.name != "sgd":
            zero = tf.zeros([], value.dtype)
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle, m=slots[0], v=slots[1],
                # The corrections are in the rate and in epsilon already.
                beta1_power=zero, beta2_power=zero, lr=rate,
                beta1=tf.cast(choice.beta1, value.dtype), beta2=tf.cast(choice.beta2, value.dtype),
                epsilon=epsilon, grad=gradient,
            )  # fmt: skip
        elif choice.momentum:
            tf.raw_ops.ResourceApplyMomentum(
                var=value.handle, accum=slots[0], lr=rate, grad=gradient,
                momentum=tf.cast(choice.momentum, value.dtype),
            )  # fmt: skip
        else:
            tf.raw_ops.ResourceApplyGradientDescent(var=value.handle, alpha=rate, delta=gradient)

    def _updated(self, flat: Any, numbers: Any) -> Any:
        sizes = [int(np.prod(v.shape)) for v in self._trained]
        parts = tf.split(flat[:-1], sizes)
        gradients = [
            tf.cast(tf.reshape(part, v.shape), v.dtype)
            for part, v in zip(parts, self._trained, strict=True)
        ]
        return self.moved(flat[-1], gradients, numbers)

    def reset(self, states: Sequence[Any]) -> None:
        """Put the random generators where `states` say, traced."""
        for variable, state in zip(self._network.random, states, strict=True):
            value_of(variable).assign(state)

    def random_specs(self) -> list[Any]:
        """What `reset` takes."""
        return [tf.TensorSpec(v.shape, value_of(v).dtype) for v in self._network.random]


class _Graphs:
    """The graphs for samples of one shape."""

    def __init__(self, steps: Steps, like: Feed) -> None:
        self.outputs: list[str] = []
        names, wanted = list(like.inputs), list(like.targets)
        rows = [
            [tf.TensorSpec([None, *_shape(a, like)], a.dtype) for a in arrays.values()]
            for arrays in (like.inputs, like.targets)
        ]
        numbers, random = _spec([len(Numbers.__struct_fields__)]), steps.random_specs()

        def named(inputs: list[Any], targets: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
            return dict(zip(names, inputs, strict=True)), dict(zip(wanted, targets, strict=True))

        def part(inputs: list[Any], targets: list[Any], numbers: Any) -> Any:
            loss, gradients = steps.gradients(*named(inputs, targets), numbers)
            flat = [tf.cast(tf.reshape(g, [-1]), tf.float32) for g in gradients]
            return tf.concat([*flat, loss[None]], 0)

        def first(inputs: list[Any], targets: list[Any], numbers: Any, states: list[Any]) -> Any:
            steps.reset(states)
            return part(inputs, targets, numbers)

        def whole(inputs: list[Any], targets: list[Any], numbers: Any, states: list[Any]) -> Any:
            steps.reset(states)
            loss, gradients = steps.gradients(*named(inputs, targets), numbers)
            return steps.moved(loss, gradients, numbers)

        def look(inputs: list[Any], targets: list[Any]) -> Any:
            given, expected = named(inputs, targets)
            outputs = steps.forward(given, training=False)
            self.outputs = list(outputs)
            loss = steps.lost(outputs, expected)
            return loss, [tf.cast(value, tf.float32) for value in outputs.values()]

        self.part = _graph(part, [*rows, numbers])
        self.first = _graph(first, [*rows, numbers, random])
        self.whole = _graph(whole, [*rows, numbers, random])
        self.look = _graph(look, rows)


def _shape(array: np.ndarray, feed: Feed) -> tuple[int | None, ...]:
    """The shape of a sample, None where it differs from feed to feed."""
    return (None, *array.shape[2:]) if feed.any_length and array.ndim > 1 else array.shape[1:]


def _graph(function: Any, signature: list[Any]) -> Any:
    return tf.function(function, input_signature=signature, autograph=False)


def _tensors(feed: Feed) -> Tensors:
    # TensorFlow keeps an array that is aligned as its own are, and copies any other.
    given = [tf.constant(array) for array in feed.inputs.values()]
    return given, [tf.constant(array) for array in feed.targets.values()]


def value_of(variable: Any) -> Any:
    """TensorFlow's variable under Keras's."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def _zeros(variable: Any) -> Any:
    return tf.Variable(tf.zeros(variable.shape, value_of(variable).dtype), trainable=False)


def _spec(shape: list[int]) -> Any:
    return tf.TensorSpec(shape, tf.float32)
