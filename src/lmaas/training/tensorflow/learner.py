"""How TensorFlow takes a training step: a `tf.Module`, or a Keras model on TensorFlow.

Owns the files of a checkpoint, masks, the sum over workers, and what random numbers follow from. It
knows no task and no schedule.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors
from lmaas.training.base import Diverged, Feed, Group, Learner, Loss
from lmaas.training.seeds import state_of
from lmaas.training.tensorflow.network import Network, of_module
from lmaas.training.tensorflow.steps import Steps, value_of

WEIGHTS_FILE = "weights.safetensors"
STATE_FILE = "optimizer.safetensors"


class GraphLearner:
    """A network of TensorFlow's variables in training."""

    def __init__(self, network: Network, loss: Loss, recipe: Recipe, group: Group) -> None:
        if not network.trained:
            raise InvalidInput("The model has no weights to train.", param="model")
        self.model = network.model
        self._network, self._group, self._seed = network, group, recipe.seed
        self._weights = {name: value_of(v) for name, v in network.weights.items()}
        self._steps = Steps(network, loss, recipe)
        self._count = 0
        self._hold: Any = None

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """See `base.Learner.step`."""
        steps, random = self._steps, self._random()
        numbers = steps.numbers(learning_rate, weight, self._count + 1)
        if len(feeds) == 1 and self._group.workers == 1:
            told = steps.whole(feeds[0], numbers, random)
        else:
            told = steps.update(self._gradients(feeds, numbers, random), numbers)
        loss, norm = told.numpy().tolist()
        if not math.isfinite(loss):
            raise Diverged(f"The loss is {loss}.")
        if not math.isfinite(norm):
            raise Diverged(f"The norm of the gradients is {norm}.")
        if self._hold is not None:
            self._hold()
        self._count += 1
        return float(loss)

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """See `base.Learner.evaluate`."""
        loss, outputs = self._steps.look(feed)
        return float(loss), {name: value.numpy() for name, value in outputs.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """All variables that inference reads."""
        return {name: _array(variable) for name, variable in self._weights.items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `base.Learner.set_weights`."""
        if unknown := set(weights) - set(self._weights):
            raise InvalidInput(f"The model has no weights {sorted(unknown)[:5]}.", param="model")
        for name, array in weights.items():
            _assign(self._weights[name], array)

    def prunable(self) -> list[str]:
        """Kernels of dense layers and convolutions."""
        return list(self._network.kernels)

    def input_axis(self, name: str) -> int:
        """See `base.Learner.input_axis`."""
        return self._network.kernels[name]

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """See `base.Learner.set_masks`."""
        held = [self._weights[name] for name in masks]
        kept = [tf.constant(mask, v.dtype) for v, mask in zip(held, masks.values(), strict=True)]

        def hold() -> None:
            for variable, mask in zip(held, kept, strict=True):
                variable.assign(variable * mask)

        self._hold = tf.function(hold)
        self._hold()

    def save(self, folder: Path) -> None:
        """Two files: the weights; the optimizer's and the count of steps."""
        from safetensors.numpy import save_file

        save_file(self.weights(), folder / WEIGHTS_FILE)
        state = {
            f"{field}/{name}": _array(variable)
            for field, variables in self._steps.slots.items()
            for name, variable in variables.items()
        }
        state["steps"] = np.array(self._count)
        save_file(state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """See `base.Learner.load`. Raises InvalidInput for another model's weights."""
        from safetensors.numpy import load_file

        weights = load_file(folder / WEIGHTS_FILE)
        if weights.keys() != self._weights.keys():
            raise InvalidInput(
                "The checkpoint is another model's; they differ in "
                f"{sorted(weights.keys() ^ self._weights.keys())[:5]}.",
                hint="Start the run anew.",
            )
        self.set_weights(weights)
        state = load_file(folder / STATE_FILE)
        self._count = int(state.pop("steps"))
        for key, array in state.items():
            field, name = key.split("/", 1)
            _assign(self._steps.slots[field][name], array)

    def _gradients(self, feeds: Sequence[Feed], numbers: Any, random: Sequence[Any]) -> Any:
        """Those of all feeds and workers and the loss, in one flat tensor."""
        flat: Any = None
        for feed in feeds:
            part = self._steps.part(feed, numbers, random if flat is None else None)
            flat = part if flat is None else flat + part
        if flat is None:
            flat = tf.zeros(self._steps.count + 1)
        if self._group.workers > 1:
            array = flat.numpy()
            self._group.sum(array)
            flat = tf.constant(array)
        return flat

    def _random(self) -> list[Any]:
        """States of the random generators that follow from seed, step and worker alone.

        So a run that is taken up again needs no random states, of any worker.
        """
        states = []
        for number, variable in enumerate(self._network.random):
            size = int(variable.shape[0])
            drawn = state_of(self._seed, self._count, self._group.rank, number, size)
            states.append(tf.constant(drawn, value_of(variable).dtype))
        return states


def _array(variable: Any) -> np.ndarray:
    array = variable.numpy()
    return np.array(array, np.float32 if variable.dtype == tf.bfloat16 else None)


def _assign(variable: Any, array: np.ndarray) -> None:
    variable.assign(tf.cast(tf.constant(array), variable.dtype))


def make(model: Any, loss: Loss, recipe: Recipe, group: Group) -> Learner:
    """The learner of a `tf.Module`."""
    return GraphLearner(of_module(model), loss, recipe, group)


LEARNER = make
