"""How Keras takes a training step on its torch backend: as PyTorch does, with Keras's weights."""

from typing import Any

from keras import ops

from lmaas.frameworks.base import by_name
from lmaas.frameworks.keras import call
from lmaas.recipe import Recipe
from lmaas.training.base import Feed, Group, Loss
from lmaas.training.keras.learner import kernels, named, penalty, random
from lmaas.training.pytorch.learner import PyTorchLearner
from lmaas.training.seeds import state_of


class KerasOnTorch(PyTorchLearner):
    """A `keras.Model` in training, which is a `torch.nn.Module` too."""

    def __init__(self, model: Any, loss: Loss, recipe: Recipe, group: Group) -> None:
        super().__init__(model, loss, recipe, group)
        self._kernels = kernels(model)
        self._random = random(model)
        trained = {id(parameter) for parameter in self._parameters}
        self._trained = {n: v for n, v in self._tensors().items() if id(v) in trained}

    def prunable(self) -> list[str]:
        """Kernels of dense layers and convolutions."""
        return list(self._kernels)

    def input_axis(self, name: str) -> int:
        """See `base.Learner.input_axis`."""
        return self._kernels[name]

    def _run(self, feed: Feed) -> tuple[dict[str, Any], Any]:
        outputs, loss = super()._run(feed)
        added = penalty(self.model)
        return outputs, loss if added is None else loss + feed.size * added

    def _call(self, inputs: dict[str, Any], *, keywords: bool) -> dict[str, Any]:
        return by_name(call(self.model, inputs, training=bool(self._training)))

    def _draw_anew(self) -> None:
        # Dropout draws from torch's own generator, whatever Keras's seeds are.
        super()._draw_anew()
        for number, variable in enumerate(self._random):
            state = state_of(self._seed, self._steps, self._group.rank, number, variable.shape[0])
            variable.assign(ops.convert_to_tensor(state, variable.dtype))

    def _tensors(self) -> dict[str, Any]:
        return {name: variable.value for name, variable in named(self.model).items()}

    def _changing(self) -> dict[str, Any]:
        return self._tensors()
