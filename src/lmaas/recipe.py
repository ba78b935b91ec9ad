"""The description of a training run: the same in YAML, Python and HTTP.

Unknown keys are refused; `"auto"` values are resolved when the run starts, and the resolved recipe
is what a job gives back. This module knows no framework and reads no data.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.types import Record

Auto = Literal["auto"]
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(tasks.trained())]
TrainingFramework = Literal["pytorch", "keras", "tensorflow", "lightgbm", "stack"]
Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]


ADAM: Final = ("beta1", "beta2", "epsilon")
READ_BY_OPTIMIZER: Final = {"sgd": ("momentum",), "adam": ADAM, "adamw": ADAM}
READ_BY_SCHEDULE: Final = {
    "constant": (),
    "step": ("every_steps", "gamma"),
    "exponential": ("every_steps", "gamma"),
    "polynomial": ("end", "power"),
    "cosine": ("end", "cycles"),
    "inverse-sqrt": (),
    "one-cycle": ("rise", "end"),
    "plateau": ("gamma", "patience", "min_delta"),
}
STRUCTURED: Final = ("sparsity", "scope", "begin", "end", "updates")
READ_BY_PRUNING: Final = {"magnitude": STRUCTURED, "2:4": ("end",), "structured": STRUCTURED}
READ_BY_METHOD: Final = {"supervised": ("packing",), "dpo": ("beta",)}
"""Which fields each choice reads beside those that all read."""


def _refuse_unread(
    record: msgspec.Struct, choice: str, read_by: Mapping[str, Sequence[str]]
) -> None:
    """Raise ValueError for a field that is set though `choice` does not read it."""
    some = {name for names in read_by.values() for name in names}
    for field in msgspec.structs.fields(record):
        unread = field.name in some and field.name not in read_by[choice]
        if unread and getattr(record, field.name) != field.default:
            told = ", ".join(read_by[choice]) or "none of its kind"
            raise ValueError(f"{choice} does not read {field.name}; it reads {told}")


class ModelChoice(Record, frozen=True, kw_only=True):
    """What is trained: a registered model (`base`: `name`, `name:3`, `name@alias`) that is trained
    on, or a new one of a named `architecture` with its `options` (sizes), or both "auto".

    For `text-classification` a base may be an embedding model too, an encoder's checkpoint (BERT,
    MiniLM, …): it gets a new head and learns in PyTorch, whole or with an adapter.
    """

    base: str | None = None
    architecture: str | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class DataChoice(Record, frozen=True, kw_only=True):
    """Where the samples are: paths, or ids of uploaded files.

    `validation` and `test` are files too, or the share of `train` that is held out, drawn with the
    run's seed. `columns` maps a task's field (`text`, `label`, …) to the column of the data.
    `options` are the task's (`max_length`, image size, …). `encoding` is that of files of text that
    are not UTF-8 (`latin-1`, `cp1252`, …); a byte order mark says UTF-16 by itself.
    """

    train: Annotated[str, Meta(min_length=1)]
    validation: str | BelowOne = 0.1
    test: str | BelowOne | None = None
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    encoding: str | None = None


class Optimizer(Record, frozen=True, kw_only=True):
    """How weights follow gradients. Weight decay is decoupled (Loshchilov and Hutter, 2019)."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Positive | Auto = "auto"
    learning_rate_multiplier: Positive = 1.0
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    momentum: BelowOne = 0.0
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-8

    def __post_init__(self) -> None:
        _refuse_unread(self, self.name, READ_BY_OPTIMIZER)


class Schedule(Record, frozen=True, kw_only=True):
    """The learning rate over the steps of a run, after `warmup`: steps, or a share of the run.

    Each schedule reads its own fields: "step" and "exponential" multiply by `gamma` every
    `every_steps`; "polynomial" falls to `end` (a share of the peak) with `power`; "cosine" to `end`
    in `cycles` equal parts, each beginning anew; "one-cycle" rises from 1/25 in the first
    `rise` of the run and falls to `end`; "plateau" multiplies by `gamma` after `patience`
    evaluations without a gain of `min_delta`.
    """

    name: Literal[
        "constant", "step", "exponential", "polynomial", "cosine", "inverse-sqrt", "one-cycle",
        "plateau",
    ] = "constant"  # fmt: skip
    warmup: Annotated[float, Meta(ge=0)] = 0.0
    every_steps: Count = 1
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.1
    end: Share = 0.0
    power: Positive = 1.0
    cycles: Count = 1
    rise: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    patience: Count = 2
    min_delta: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        _refuse_unread(self, self.name, READ_BY_SCHEDULE)


class EarlyStopping(Record, frozen=True, kw_only=True):
    """Stop after `patience` evaluations in which `metric` gained no more than `min_delta`."""

    metric: str = "loss"
    mode: Literal["auto", "min", "max"] = "auto"
    patience: Count = 3
    min_delta: Annotated[float, Meta(ge=0)] = 0.0
    restore_best: bool = True


class Transform(Record, frozen=True, kw_only=True):
    """One augmentation of a training sample: applied with probability `p`."""

    name: str
    p: Share = 1.0
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class Pruning(Record, frozen=True, kw_only=True):
    """Weights that are taken out while training.

    "magnitude" sets the smallest to zero, "2:4" two of every four neighbours at `end`. "structured"
    takes out whole units and channels: the hidden layers get smaller, and each time the optimizer
    begins anew. `sparsity`, a share of the weights or of the units, is reached between the shares
    `begin` and `end` of the run's steps on a cubic curve (Zhu and Gupta, 2017), in `updates` steps;
    of all layers together, or of each ("layer").
    """

    method: Literal["magnitude", "2:4", "structured"] = "magnitude"
    sparsity: BelowOne = 0.5
    scope: Literal["global", "layer"] = "global"
    begin: Share = 0.0
    end: Share = 0.75
    updates: Count = 10

    def __post_init__(self) -> None:
        _refuse_unread(self, self.method, READ_BY_PRUNING)


class Distribution(Record, frozen=True, kw_only=True):
    """How many data-parallel processes share each batch."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 1


class Adapter(Record, frozen=True, kw_only=True):
    """Low-rank adaptation (Hu et al., 2021) instead of training all weights."""

    rank: Annotated[int, Meta(ge=1, le=1024)] = 8
    alpha: Positive = 16.0
    dropout: BelowOne = 0.0
    targets: tuple[str, ...] = ()


class Checkpoints(Record, frozen=True, kw_only=True):
    """How often a run can be taken up again: every so many steps; "auto": each epoch."""

    every_steps: Count | Auto = "auto"
    keep: Count = 2


class Evaluation(Record, frozen=True, kw_only=True):
    """How often the held-out samples are looked at; "auto": each epoch."""

    every_steps: Count | Auto = "auto"


class Method(Record, frozen=True, kw_only=True):
    """What is learned: given answers, or (`text-generation`) which of two is preferred.

    `beta` is direct preference optimisation's (Rafailov et al., 2023).
    """

    type: Literal["supervised", "dpo"] = "supervised"
    beta: Positive = 0.1
    packing: bool = False

    def __post_init__(self) -> None:
        _refuse_unread(self, self.type, READ_BY_METHOD)


class Recipe(Record, frozen=True, kw_only=True):
    """One training run. `name` is what the model is registered as.

    A batch has `batch_size` samples over all workers, in `accumulate` equal parts of which one is
    in memory at a time. `steps`, where given, bounds the run instead of `epochs`. `clip_norm`
    bounds the norm of the gradients of all weights together. `early_stopping` "auto" stops where
    the loss of the held-out samples stays higher than it was and keeps the best weights; a language
    model, and a run with fewer than 20 of them, goes on to its end, as every run does with null.
    """

    name: str
    task: TaskName
    data: DataChoice
    framework: TrainingFramework | Auto = "auto"
    model: ModelChoice = ModelChoice()
    method: Method = Method()
    epochs: Count | Auto = "auto"
    steps: Count | None = None
    batch_size: Count | Auto = "auto"
    accumulate: Count = 1
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_norm: Positive | None = None
    label_smoothing: BelowOne = 0.0
    precision: Literal["f32", "bf16"] = "f32"
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    early_stopping: EarlyStopping | Auto | None = "auto"
    augmentation: tuple[Transform, ...] = ()
    pruning: Pruning | None = None
    distribution: Distribution = Distribution()
    adapter: Adapter | None = None
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    card: str = ""

    def __post_init__(self) -> None:
        if self.adapter is not None and self.pruning is not None:
            raise ValueError("an adapter is merged into weights that are not pruned: take one")
        if not tasks.spec(self.task).generates:
            if self.method.packing:
                raise ValueError(f"{self.task} has no packing")
            return
        if self.data.columns:
            raise ValueError(f"{self.task} reads samples in OpenAI's shape, no data.columns")
        if self.model.base is not None and (
            self.model.architecture not in (None, "auto") or self.model.options
        ):
            raise ValueError("the base says the architecture and its options: leave them out")


def recipe_of(value: object) -> Recipe:
    """`value`, plain data as YAML or JSON give it, as a recipe.

    Raises InvalidInput naming the key.
    """
    try:
        return msgspec.convert(value, Recipe)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"The recipe is not valid: {error}.",
            hint="`lmaas train --schema` prints what a recipe may say.",
            param="recipe",
        ) from None
