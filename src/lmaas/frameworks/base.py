"""The contract of a framework, and what all frameworks share."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.tasks import Row


class Framework(Protocol):
    """Verbs of a framework. `arrays` go in and out by tensor name, batch axis first."""

    name: str

    def owns(self, model: Any) -> bool:
        """Whether `model` is a live model of this framework."""
        ...

    def version(self) -> str:
        """The framework's version."""
        ...

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """Names for the positional inputs in `sample`."""
        ...

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
        """Train a classifier in place with Adam on cross-entropy; mean loss of each epoch."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write the model's own files, never a pickle."""
        ...

    def load(self, folder: Path, like: Any = None) -> Any:
        """The model that `save` wrote; `like` is where PyTorch's weights go."""
        ...

    def run(self, model: Any, arrays: Row) -> Row:
        """The source model's outputs, in inference mode."""
        ...

    def convert(self, model: Any, arrays: Row) -> Any:
        """An `openvino.Model` with the inputs and outputs in the order that `run` has them."""
        ...

    def num_parameters(self, model: Any) -> int:
        """How many numbers the model has learned."""
        ...


def by_name(outputs: Any) -> dict[str, Any]:
    """A model's outputs by name: its own names for a mapping, output_0, … otherwise."""
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return {f"output_{i}": value for i, value in enumerate(outputs)}
    return {"output_0": outputs}


def outputs_are(outputs: np.ndarray) -> Literal["logits", "probabilities"]:
    """Rows that are non-negative and sum to 1 are probabilities; anything else is logits."""
    sums = outputs.sum(axis=-1)
    like = bool((outputs >= 0).all()) and bool(np.allclose(sums, 1, atol=1e-3))
    return "probabilities" if like else "logits"


def check_training(x: np.ndarray, y: np.ndarray, epochs: int, batch_size: int) -> None:
    """Raise InvalidInput for data that no framework can train on."""
    if len(x) != len(y) or not len(x):
        raise InvalidInput(f"x and y must be equally long and not empty: {len(x)} and {len(y)}.")
    if epochs < 1 or batch_size < 1:
        raise InvalidInput("epochs and batch_size must be at least 1.")


def check_loss(loss: float, epoch: int, learning_rate: float) -> float:
    """`loss`, or InvalidInput when training has diverged."""
    if not math.isfinite(loss):
        raise InvalidInput(
            f"The loss is {loss} in epoch {epoch + 1} at learning rate {learning_rate:g}.",
            hint="Lower learning_rate, or look for NaN in the data.",
        )
    return loss
