"""What a task asks of the models that a pipeline is made of, and what it is given back.

A request of such a task is a conversation with its parts: it asks one of them for its outputs to a
batch, is given them, and asks the next one. It knows no engine and no other task: what a part can
do is said by the protocols here, which the serving halves of tasks have. The worker joins what the
requests of many callers ask of one part, and runs the parts beside each other.
"""

from collections.abc import Generator, Iterable, Mapping
from typing import Final, Protocol, runtime_checkable

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs.limits import Limits
from lmaas.tasks.base import Batch, Task, Tensors
from lmaas.types import Answer, Part, Payload, Signature

MOST_CROPS: Final = 100
"""So many places of one image a pipeline looks at, the surest ones; its answer has no others."""
CROPS_AT_ONCE: Final = 32
"""So many crops are asked about in one turn: more would be memory, and time in one thread."""


class BoundPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part that is loaded. `task` is bound to its files, `model` is the `name:version` that it
    was made of."""

    role: str
    model: str
    task: Task
    signature: Signature


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks next: the outputs of the part with the role `part` to `batch`.

    The batch has at least one row. It may have `parts` of its own, as one that `Task.read` gives;
    the outputs are then of all their rows, in their order.
    """

    part: str
    batch: Batch


Conversation = Generator[Run, Tensors, Answer]
"""One request: it yields what it asks, is sent the outputs, and returns its answer.

Each turn runs in a thread beside the engines, and may take some milliseconds. Whoever closes it
cancels it. What a part cannot run is raised where it was asked for. It raises InvalidInput as
`Task.read` does.
"""


@runtime_checkable
class PipelineTask(Task, Protocol):
    """A task whose spec has `roles`: a model of it may be a pipeline."""

    def check_parts(self, parts: Mapping[str, Part]) -> Signature:
        """The signature of a pipeline of these parts, by role.

        Roles and the tasks of the parts are checked already, and no required one is missing. Raises
        InvalidInput for parts that do not fit each other, naming the role as `parts.<role>`.
        """
        ...

    def converse(
        self,
        payload: Payload,
        parts: Mapping[str, BoundPart],
        signature: Signature,
        limits: Limits,
    ) -> Conversation:
        """Answer one request body with `parts` by role; `signature` is the pipeline's."""
        ...

    def drawn(self) -> Payload:
        """A request as callers send it, which a new pipeline answers before it is registered."""
        ...


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one image, the surest first, in pixels of the image that was given.

    n places: `boxes` (n, 4) float xmin, ymin, xmax, ymax; `scores` (n,) from 0 to 1; `labels`, one
    each. `corners` (n, 4, 2) are those of a quadrilateral, clockwise from its own top left, where
    what is found can lie aslant; `points` (n, k, 2) are landmarks, in the order of the model.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: tuple[str, ...]
    corners: np.ndarray | None = None
    points: np.ndarray | None = None


@runtime_checkable
class SeesImages(Protocol):
    """A task whose models can be given images that are decoded already."""

    def batch_of(self, images: Iterable[Image], signature: Signature) -> Batch:
        """Upright images ("RGB", at least one) of any sizes, a row for each.

        One at a time is taken from `images`, so that crops of a large image need not lie in memory
        together (`codecs.image.cut_out`).
        """
        ...


@runtime_checkable
class FindsPlaces(SeesImages, Protocol):
    """A task whose models find places in images."""

    def places(
        self,
        outputs: Tensors,
        batch: Batch,
        signature: Signature,
        *,
        threshold: float | None = None,
        overlap: float | None = None,
    ) -> list[Places]:
        """What was found in each image of a `batch_of`: places of at least the score `threshold`,
        that overlap others of their kind by at most `overlap` (None: the model's own)."""
        ...


@runtime_checkable
class Classifies(SeesImages, Protocol):
    """A task whose models tell which class an image is of."""

    def classes(
        self, outputs: Tensors, batch: Batch, signature: Signature
    ) -> list[tuple[str, float]]:
        """The likeliest label of each image of a `batch_of`, and its score."""
        ...
