"""The contract of a task, and what all tasks share: raw tensors in and out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec
import numpy as np

from lmaas.codecs import media, tensor
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput
from lmaas.tasks.spec import Spec
from lmaas.types import Answer, Payload, Signature

Tensors = dict[str, np.ndarray]
"""Arrays by tensor name; the first axis of each is the batch axis."""


class Batch(msgspec.Struct, kw_only=True):
    """One request as the model takes it: preprocessed `arrays` of `size` samples.

    `single` says that the caller sent one sample without a batch axis and wants one result.
    `tensors` is set when the request came as Open Inference Protocol tensors. Where samples differ
    in shape or are many, `parts` run one after another and `arrays` is empty; their outputs in this
    order answer the request. With neither there is nothing to run: `write` gets no outputs.
    `row_cost` is how much work a row is, in units of the task's own.
    """

    arrays: Tensors
    size: int
    single: bool = False
    parameters: dict[str, Any] = {}
    tensors: tensor.Wanted | None = None
    parts: tuple["Batch", ...] = ()
    row_cost: int = 1


class Shown(NamedTuple):
    """An answer for people: a table, or without `columns` a line for each row."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Task(Protocol):
    """Verbs of a task. `signature` is always one that `check_signature` returned."""

    spec: Spec

    def bind(self, folder: Path) -> "Task":
        """The task for one model, with what it needs of the `folder` of files that are served.

        Raises InvalidInput where a file is missing or damaged. Only a bound task reads and writes.
        """
        ...

    def check_signature(self, signature: Signature) -> Signature:
        """`signature` completed with this task's defaults; InvalidInput if it does not fit."""
        ...

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Decode and preprocess one request body. Raises InvalidInput, PayloadTooLarge."""
        ...

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """The response body for the model's `outputs` to `batch`; `model` is `name:version`."""
        ...

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """The view of raw outputs in which source and compiled model are compared."""
        ...

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """The task's metrics for raw `outputs` against `targets`."""
        ...

    def shown(self, result: Any) -> Shown:
        """The JSON `result` of a call for people."""
        ...

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """What a call has as `inputs` for rows of a file that lies in `folder`.

        Raises InvalidInput naming the row as `inputs[3]`.
        """
        ...

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The JSON `result` of a call with `collect`ed inputs: for each row its new values."""
        ...


@runtime_checkable
class Orderless(Protocol):
    """A task with models whose outputs are sets: their rows come in an order of no meaning."""

    def aligned(self, want: Tensors, have: Tensors, signature: Signature) -> Tensors:
        """`have` in the order of `want`; both are views that `Task.compare` gave."""
        ...


@runtime_checkable
class Drawable(Protocol):
    """A task whose results can be drawn on the image that was asked about."""

    def marks(self, result: Any) -> list[Mark]:
        """The JSON `result` of a call for one image, as what is drawn on it."""
        ...


def read_tensors(payload: Payload, signature: Signature, limits: Limits) -> Batch:
    """An Open Inference Protocol request, the same for every task."""
    arrays, wanted = tensor.read(payload, signature, limits)
    return Batch(arrays=arrays, size=batch_size(arrays, signature), tensors=wanted)


def refuse_file(payload: Payload, takes: str, hint: str) -> InvalidInput:
    """What tells that a model takes JSON only, and what came instead."""
    received = media.told(payload.body, payload.media_type)
    return InvalidInput(f"This model takes {takes} as JSON; received {received}.", hint=hint)


def batch_size(arrays: Tensors, signature: Signature) -> int:
    """The number of samples in `arrays`; 1 for a model without a batch axis."""
    if not signature.batch:
        return 1
    sizes = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise InvalidInput(f"All inputs must have the same batch size; received {sizes}.")
    return int(next(iter(sizes.values())))


def texts_of(rows: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """One field of rows, in each a text. Raises InvalidInput naming the row."""
    for index, row in enumerate(rows):
        if not isinstance(row[field], str):
            told = "nothing" if row[field] is None else type(row[field]).__name__
            raise InvalidInput(f"inputs[{index}]: {field} must be a text; received {told}.")
    return [row[field] for row in rows]


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) over the last axis, in float32, shifted by the maximum."""
    values = logits.astype(np.float32)
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values
