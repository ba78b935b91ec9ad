"""The two contracts of training: a problem says what is learned, a learner how a framework does it.

Gradients are always those of (sum of losses) / (sum of weights) over the whole batch, so that one
batch, its micro-batches and its shards on several workers give the same step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import Tensors

Split = Literal["train", "validation", "test"]

IGNORED = -100


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One of `training.losses`, what it reads, and its options.

    `outputs` are the model's, by name, in the order in which the loss declares its own; left out,
    the model's first. `targets` says which of a feed's targets a declared one is, where they have
    other names. `smoothing` moves that share of each target to all classes evenly; `beta` is how
    dear it is to leave the reference, for preference; `scale` and `margin` (radians) are those of
    angular-margin. A "sum" is of its `parts`, each times its `share`.
    """

    name: str
    outputs: tuple[str, ...] = ()
    targets: Mapping[str, str] = {}
    smoothing: float = 0.0
    beta: float = 0.1
    scale: float = 30.0
    margin: float = 0.3
    parts: tuple["Loss", ...] = ()
    share: float = 1.0


class Feed(msgspec.Struct, kw_only=True):
    """Samples as the model takes them: inputs and targets by name, batch axis first.

    `size` is how many samples (or pairs), `weight` what the summed loss is divided by: samples, or
    for next-token the labels that are not ignored. With `any_length` the second axis of each array
    differs from feed to feed.
    """

    inputs: Tensors
    targets: Tensors
    size: int
    weight: float
    any_length: bool = False


class Meter(Protocol):
    """Adds up a task's metrics over the feeds of an evaluation."""

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count the model's raw outputs for one feed."""
        ...

    def result(self) -> dict[str, float]:
        """The metrics over all that was added."""
        ...


class Problem(Protocol):
    """A task's training data and what becomes of it."""

    loss: Loss
    primary: str
    """The metric by which models are compared, as `Meter.result` calls it."""

    def size(self, split: Split) -> int:
        """How many samples a split has."""
        ...

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """The samples at `indices`.

        In training `epoch` is given: augmentation is drawn from (seed, epoch, index) alone, so that
        a resumed run and another number of workers see the same.
        """
        ...

    def meter(self) -> Meter:
        """A meter with nothing in it."""
        ...

    def build(self, framework: TrainingFramework) -> Any:
        """The live model to train: new, with weights drawn from the seed, or the base's."""
        ...

    def package(self, model: Any, folder: Path, facts: "Facts") -> None:
        """Write a package of the trained model into `folder`."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the data was: its digest, sizes, labels, overlap; goes into lineage and card."""
        ...


@runtime_checkable
class Lengthy(Protocol):
    """A problem whose samples differ in length: those of a batch are to be alike."""

    def lengths(self) -> np.ndarray:
        """How long each sample to train on is, (N,), in any unit."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A problem that knows the size of its model before it is built."""

    def num_parameters(self) -> int:
        """How many numbers the model to train has."""
        ...


class Width(msgspec.Struct, frozen=True, kw_only=True):
    """How many units or channels a layer has, in `parts` that are normalised each by itself.

    The parts are equal and lie one after the other, so a smaller layer has as many of each.
    """

    size: int
    parts: int = 1


@runtime_checkable
class Resizable(Protocol):
    """A problem whose network can be built with other widths."""

    def widths(self) -> dict[str, Width]:
        """The widths that can be smaller, each alone, by name; none where the network has none."""
        ...

    def resize(self, sizes: Mapping[str, int]) -> None:
        """From now on `build` makes the network with these widths, weights from the seed, and
        `package` says so.
        """
        ...


@runtime_checkable
class Boosting(Protocol):
    """A problem that is learned in other steps than those along a gradient of weights."""

    def resolved(self, recipe: Recipe) -> Recipe:
        """The recipe with those "auto" values replaced that mean something else here."""
        ...

    def learner(self, model: Any, recipe: Recipe) -> "Learner":
        """What trains `model`, by a resolved recipe."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A learner that has tried several models."""

    def verdict(self) -> str:
        """Which one won, and by how much, in words."""
        ...


class Facts(msgspec.Struct, kw_only=True):
    """What the run has found out about the trained model."""

    recipe: Recipe
    metrics: dict[str, float]
    data: dict[str, Any]
    job: str | None = None
    card: str = ""


class Group(Protocol):
    """The data-parallel workers of a run, of which this process is number `rank`."""

    rank: int
    workers: int

    def sum(self, array: np.ndarray) -> None:
        """Replace a contiguous float32 or float64 array by its sum over all workers, in place.

        All workers call it with equally many numbers and get the same bits. Raises Unavailable when
        a worker has ended.
        """
        ...


class Learner(Protocol):
    """A live model in training. Arrays are numpy's on the outside."""

    @property
    def model(self) -> Any:
        """The model as it is now."""
        ...

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """One update from micro-batches that are in the end one batch; the summed loss over it.

        `feeds` are this worker's, none where a batch has fewer samples than there are workers;
        `weight` and the loss are those of the whole batch, over all workers. Raises `Diverged` for
        a loss that is no finite number, in all workers, and then changes nothing. Weight decay is
        decoupled and for all that is trained: w - learning_rate * decay * w, then the step.
        """
        ...

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """The summed loss and the raw outputs in inference mode."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of everything that inference needs, by a stable name."""
        ...

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put weights from `weights()` back."""
        ...

    def prunable(self) -> list[str]:
        """Names in `weights()` of the matrices and kernels that pruning may thin out."""
        ...

    def input_axis(self, name: str) -> int:
        """Which axis of a prunable weight runs over what it sums up (its inputs)."""
        ...

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """From now on hold these weights at zero where the mask is False, after every step too."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights, optimizer state and random states into `folder`; no pickle."""
        ...

    def load(self, folder: Path) -> None:
        """Continue exactly where `save` was."""
        ...


class Diverged(ArithmeticError):
    """The loss is no finite number."""
