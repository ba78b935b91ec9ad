"""The contract of a framework, and what all frameworks share."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime.cases import NumberFormat
from lmaas.runtime.outputs import by_name as by_name
from lmaas.tasks import Tensors
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

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """Write the model's own files, never a pickle or code; `arrays` are sample inputs."""
        ...

    def load(self, folder: Path, like: Any = None) -> Any:
        """The model that `save` wrote; weights that were saved alone go into `like`."""
        ...

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """The source model's outputs, in inference mode."""
        ...

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: "Axes"
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

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """What else must be known to compare the model with what is served of it."""
        ...

    def num_parameters(self, model: Any) -> int:
        """How many numbers the model has learned."""
        ...


class Deterministic:
    """What frameworks share whose models draw no random numbers and do not change when asked."""

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


def run_source(run: Callable[[Any, Tensors], Tensors], model: Any, arrays: Tensors) -> Tensors:
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
