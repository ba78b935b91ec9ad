"""The contract of a framework, and what all frameworks share."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime.cases import NumberFormat
from lmaas.runtime.outputs import by_name as by_name
from lmaas.tasks import Row
from lmaas.types import EngineName, FrameworkName, TensorSpec

if TYPE_CHECKING:
    from lmaas.frameworks.axes import Axes


class Form(NamedTuple):
    """One way in which a model may be served; whether it gives the model's answers is measured.

    `make` gives an `openvino.Model` for the engine openvino; for a native engine it writes the
    files into the folder that it is given, and gives None. `how` says in words how it came about,
    `places` where in the model an operation is used, by its name.
    """

    engine: EngineName
    how: str
    make: Callable[[Path], Any]
    places: Mapping[str, str] = MappingProxyType({})


class Facts(NamedTuple):
    """The least exact numbers that a model computes with, and notes for people.

    `decided_by` names outputs that say which column of another one is the largest.
    """

    computes_in: NumberFormat
    notes: tuple[str, ...] = ()
    decided_by: Mapping[str, str] = MappingProxyType({})


class Framework(Protocol):
    """Verbs of a framework. `arrays` go in and out by tensor name, batch axis first."""

    name: FrameworkName

    def owns(self, model: Any) -> bool:
        """Whether `model` is a live model of this framework."""
        ...

    def version(self) -> str:
        """The framework's version."""
        ...

    def inputs(self, model: Any) -> list[TensorSpec]:
        """The inputs that the model declares, -1 where it leaves a size open; [] if it does not."""
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
        """Train a classifier in place with Adam on cross-entropy; mean loss of each epoch.

        Raises InvalidInput for data that does not fit and for training that diverges.
        """
        ...

    def save(self, model: Any, folder: Path, arrays: Row) -> None:
        """Write the model's own files, never a pickle or code; `arrays` are sample inputs."""
        ...

    def load(self, folder: Path, like: Any = None) -> Any:
        """The model that `save` wrote; weights that were saved alone go into `like`."""
        ...

    def run(self, model: Any, arrays: Row) -> Row:
        """The source model's outputs, in inference mode."""
        ...

    def forms(
        self, model: Any, arrays: Row, outputs: Sequence[str], axes: "Axes"
    ) -> Iterator[Form]:
        """The ways to serve the model, the fastest first; inputs and outputs in the order of `run`.

        `arrays` are sample inputs, `outputs` the names of what `run` gives, `axes` the free ones.
        """
        ...

    def seed(self, model: Any) -> None:
        """Make the model's next random numbers the same ones each time."""
        ...

    def kept(self, model: Any) -> AbstractContextManager[None]:
        """A time after which the model's state and all random numbers are as they were."""
        ...

    def facts(self, model: Any, arrays: Row) -> Facts:
        """What else must be known to compare the model with what is served of it."""
        ...

    def num_parameters(self, model: Any) -> int:
        """How many numbers the model has learned."""
        ...


class Untrained:
    """What frameworks share whose models are brought, and neither trained nor random here."""

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
        """Refused."""
        raise InvalidInput(
            f"A {type(model).__name__} is not trained in place.",
            hint="Train it in its own framework, or run a job.",
        )

    def seed(self, model: Any) -> None:
        """Nothing is drawn."""

    def kept(self, model: Any) -> AbstractContextManager[None]:
        """Asking changes nothing."""
        return nullcontext()


def takes_keywords(call: Callable[..., Any], names: Sequence[str]) -> bool:
    """Whether `call` is given inputs called `names` by keyword (else in their order).

    Raises InvalidInput when the names are not the ones that it has.
    """
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = {p.kind for p in parameters}
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if all(name in known for name in names):
        return True
    if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.POSITIONAL_ONLY in kinds:
        return False
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return True
    if list(names) == unnamed(len(names)):
        return False
    raise InvalidInput(
        f"The model takes the inputs {known}; the sample has {list(names)}.", param="sample"
    )


def unnamed(count: int) -> list[str]:
    """Names for inputs that have none: input_0, …."""
    return [f"input_{i}" for i in range(count)]


def outputs_are(outputs: np.ndarray) -> Literal["logits", "probabilities"]:
    """Rows that are non-negative and sum to 1 are probabilities; anything else is logits."""
    sums = outputs.sum(axis=-1)
    like = bool((outputs >= 0).all()) and bool(np.allclose(sums, 1, atol=1e-3))
    return "probabilities" if like else "logits"


def check_training(x: np.ndarray, y: np.ndarray, epochs: int, batch_size: int) -> np.ndarray:
    """`x`, in float32 where it was float64; InvalidInput if no classifier can learn from it."""
    if len(x) != len(y) or not len(x):
        raise InvalidInput(f"x and y must be equally long and not empty: {len(x)} and {len(y)}.")
    if epochs < 1 or batch_size < 1:
        raise InvalidInput(
            f"epochs and batch_size must be at least 1; received {epochs} and {batch_size}."
        )
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise InvalidInput(
            f"y must hold one class number for each row; received {y.dtype} {list(y.shape)}.",
            param="y",
        )
    return x.astype(np.float32) if x.dtype == np.float64 else x


def first_outputs(run: Callable[[Any, Row], Row], model: Any, x: Row, y: np.ndarray) -> np.ndarray:
    """The outputs for a few rows before training. Raises InvalidInput where `y` does not fit."""
    outputs = list(run_source(run, model, x).values())
    if len(outputs) != 1 or outputs[0].ndim != 2:
        raise InvalidInput(
            "A classifier has one output of shape [batch, classes]; received "
            f"{[list(o.shape) for o in outputs]}."
        )
    classes = outputs[0].shape[1]
    if y.min() < 0 or y.max() >= classes:
        raise InvalidInput(
            f"The model has {classes} classes, numbered from 0; y has {y.min()} to {y.max()}.",
            param="y",
        )
    return outputs[0]


def run_source(run: Callable[[Any, Row], Row], model: Any, arrays: Row) -> Row:
    """`run(model, arrays)`, its failure told as InvalidInput."""
    try:
        return run(model, arrays)
    except InvalidInput:
        raise
    except Exception as error:
        given = ", ".join(f"{n}: {a.dtype} {list(a.shape)}" for n, a in arrays.items())
        told = " ".join(str(error).split())[:500] or "no reason given"
        raise InvalidInput(
            f"The model does not run on {{{given}}}: {type(error).__name__}: {told}",
            hint="Give inputs of the shapes and types that the model is called with.",
            param="sample",
        ) from error


def check_loss(loss: float, epoch: int, learning_rate: float) -> float:
    """`loss`, or InvalidInput when training has diverged."""
    if not math.isfinite(loss):
        raise InvalidInput(
            f"The loss is {loss} in epoch {epoch + 1} at learning rate {learning_rate:g}.",
            hint="Lower learning_rate, or look for NaN in the data.",
        )
    return loss
