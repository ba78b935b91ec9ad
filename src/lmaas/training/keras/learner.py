"""How Keras takes a training step: as its backend does, over the layers of a `keras.Model`.

Random numbers are those of Keras's seed generators, so that they follow from a step on both.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from lmaas.errors import InvalidInput
from lmaas.frameworks.keras import call
from lmaas.recipe import Recipe
from lmaas.training.base import Group, Learner, Loss

KERNELS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


def make(model: Any, loss: Loss, recipe: Recipe, group: Group) -> Learner:
    """The learner of a Keras model. Raises InvalidInput for a backend that is not known."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _on_tensorflow(model, loss, recipe, group)
    if backend == "torch":
        from lmaas.training.keras.on_torch import KerasOnTorch

        return KerasOnTorch(model, loss, recipe, group)
    raise InvalidInput(
        f"Keras models on the {backend} backend are not trained; supported are tensorflow, torch.",
        hint="Set KERAS_BACKEND.",
        param="framework",
    )


def named(model: Any) -> dict[str, Any]:
    """The weights by their place and what they are in their layer: "3/kernel".

    Layers that are not named are numbered by the process, so their names are no stable ones.
    """
    return {f"{index}/{weight.name}": weight for index, weight in enumerate(model.weights)}


def kernels(model: Any) -> dict[str, int]:
    """The trained kernels of dense layers and convolutions, and the axis of their inputs."""
    axes = {
        id(layer.kernel): _input_axis(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, KERNELS) and layer.built and layer.kernel.trainable
    }
    return {name: axes[id(v)] for name, v in named(model).items() if id(v) in axes}


def random(model: Any) -> list[Any]:
    """The states of the seed generators."""
    weights = {id(weight) for weight in model.weights}
    return [v for v in model.variables if id(v) not in weights and "seed" in v.name]


@contextlib.contextmanager
def in_bf16(model: Any) -> Iterator[None]:
    """Layers compute in bfloat16 in here, and normalise in float32 as Keras has it."""
    layers = list(model._flatten_layers())
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "mixed_bfloat16"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def penalty(model: Any) -> Any:
    """What the layers' regularizers add to the mean loss; None where there are none."""
    added = model.losses
    return sum(added[1:], added[0]) if added else None


def _on_tensorflow(model: Any, loss: Loss, recipe: Recipe, group: Group) -> Learner:
    from lmaas.training.tensorflow.learner import GraphLearner
    from lmaas.training.tensorflow.network import Network

    weights = named(model)
    trained = {id(weight) for weight in model.trainable_weights}
    network = Network(
        model=model,
        weights=weights,
        trained={name: weight for name, weight in weights.items() if id(weight) in trained},
        kernels=kernels(model),
        random=random(model),
        call=lambda tensors, training: call(model, tensors, training=training),
        in_bf16=lambda: in_bf16(model),
        penalty=lambda: penalty(model),
    )
    return GraphLearner(network, loss, recipe, group)


def _input_axis(layer: Any) -> int:
    """The axis that is summed over; of several, the last."""
    if isinstance(layer, keras.layers.EinsumDense):
        given, kept = layer.equation.replace(" ", "").split("->")
        axes = given.split(",")[1]
        return max(axis for axis, letter in enumerate(axes) if letter not in kept)
    return len(layer.kernel.shape) - 2


LEARNER = make
