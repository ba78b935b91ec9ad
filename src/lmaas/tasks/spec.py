"""What a task is, as data: one record that says all that others must know of it.

Names, schemas, reference pages, help texts and lists in errors are derived from these records.
Knows no arrays, no libraries and no transport, so whoever asks for a name loads nothing.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from lmaas.tasks.architectures import Architecture

LOSS: Final = {"loss": "what training makes smaller, a mean over the samples or learned tokens"}
CLASSES: Final = LOSS | {
    "accuracy": "share of the samples whose likeliest class is the right one",
    "macro_f1": "mean of the classes' F1",
}
"""Metrics that several tasks have."""


class DataOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the options that a task's training data take."""


class Several(msgspec.Struct, frozen=True, kw_only=True):
    """An architecture that stands for several models, of which the best is taken.

    `framework` trains them. With `held_out` they are compared on samples of `data.validation`.
    """

    architecture: str
    framework: str
    held_out: bool


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How models of a task are trained.

    `columns` are the fields that `data.columns` finds a column for; a field that is left out is in
    the column of its name. Of the `architectures` the first is what "auto" takes; `left_open` are
    the others that it can be, where the recipe names a framework or options of networks.
    `only_in` says which architectures one framework alone trains. `augments` is the kind of data
    that augmentations are for. `base_task` is the task as which a Hugging Face checkpoint is pushed
    that a recipe names as its base. `library` is that of a model card, where it is not the
    framework.
    """

    does: str
    options: type[DataOptions]
    columns: tuple[str, ...]
    architectures: Mapping[str, type[Architecture]]
    left_open: tuple[str, ...] = ()
    only_in: Mapping[str, str] = {}
    several: Several | None = None
    augments: Literal["image", "boxes", "line", "text", "audio"] | None = None
    base_task: str | None = None
    library: str | None = None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How a Hugging Face checkpoint becomes a package.

    `endings` are those of its architecture's name; the longest that fits wins. A repository that
    has one of `files` is of this task too, unless its architecture is `certain` of another one.

    `builder` is a function `(folder, options, target) -> Manifest`, as "module:function". An
    encoder is loaded by transformers' class `loads` and gives a `vector` or a `score` for each
    text, or with `class-scores` one of each label, with `token-scores` one of each label for each
    token, with `spans` two for each token: how likely an answer begins and ends there. It reads
    texts, or `pairs` of them. Of several tasks with one ending it is the one whose `label` begins
    a label of the model.
    """

    endings: tuple[str, ...]
    builder: str
    files: tuple[str, ...] = ()
    certain: bool = False
    loads: str = "AutoModel"
    gives: Literal["vector", "score", "class-scores", "token-scores", "spans"] = "vector"
    pairs: bool = False
    label: str | None = None


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are judged against the right ones: for compressed models.

    `measures` is a function `(answers, expected) -> metrics` of texts or labels, as
    "module:function". The task's primary metric `falls` where models get better, or else rises to
    `most`.
    """

    measures: str
    falls: bool = False
    most: float = 1.0


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the pipelines of a task: what it does there, and the tasks one of whose models it
    may be. A pipeline may lack one that is not `required`."""

    name: str
    does: str
    tasks: tuple[str, ...]
    required: bool = True


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One task.

    `takes` and `gives` say in words what goes in and what comes out. `fields` are what a row of a
    file has for this task, each in a column; without any the row is taken as it is. A call takes up
    to `rows_per_call` of them, which have the same in the field `shared` where there is one.

    `pipelines` are Hugging Face's names of the task, the first of them the tag of a model card;
    where a model without labels has another tag, that is `pipeline_without_labels`, and
    `pipeline_parameters` are what a call in the path of one of these names sets. `parameters`
    are what a call may set under that name; None: the task takes none, or its doors read them.

    `metrics` are all that are measured, with their meaning, and models are compared by `primary`.
    A task that `generates` is that of language models: requests are read and answers written by the
    doors, token by token. One that `transcribes` takes sounds, which are metered by their length.
    `embeds` is of what it gives vectors.
    `infers_outputs_are`: whether a classifier's outputs are logits or
    probabilities is seen in the sample's answers where nobody says it. Without `training` the task
    is not trained, without `checkpoint` no Hugging Face checkpoint becomes a model of it, without
    `judge` its models are not compressed (language models are, by their perplexity). Where it has
    `roles`, a model of the task may be a pipeline of other models (`tasks.pipelines`).
    """

    name: str
    takes: str
    gives: str
    metrics: Mapping[str, str]
    primary: str
    fields: tuple[str, ...] = ()
    rows_per_call: int = 64
    shared: str | None = None
    pipelines: tuple[str, ...] = ()
    pipeline_without_labels: str | None = None
    pipeline_parameters: Mapping[str, Mapping[str, Any]] = {}
    parameters: type[msgspec.Struct] | None = None
    generates: bool = False
    speaks: bool = False
    transcribes: bool = False
    embeds: tuple[Literal["text", "image"], ...] = ()
    infers_outputs_are: bool = False
    training: Training | None = None
    checkpoint: Checkpoint | None = None
    judge: Judge | None = None
    roles: tuple[Role, ...] = ()

    @property
    def trained(self) -> Training:
        """How models of the task are trained; only for a task that is."""
        assert self.training is not None, self.name
        return self.training
