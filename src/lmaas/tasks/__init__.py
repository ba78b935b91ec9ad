"""What a model does: sample in, result out, metrics. One folder a task.

A task's folder has its `spec` (what it is, as data), its `serving` half (read, write, compare) and,
where the task is trained, its `training` half (problem, networks for each framework). The serving
half imports nothing of the training half. Knows no engines and no transport.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from lmaas.errors import InvalidInput
from lmaas.tasks.spec import Checkpoint, Judge, Spec, Training

if TYPE_CHECKING:
    from lmaas.tasks.base import Batch, Task, Tensors

TASKS: Final = (
    "image-classification",
    "object-detection",
    "face-recognition",
    "optical-character-recognition",
    "tensor",
    "text-generation",
    "text-to-speech",
    "image-text-to-text",
    "embedding",
    "text-ranking",
    "text-classification",
    "token-classification",
    "zero-shot-classification",
    "zero-shot-image-classification",
    "question-answering",
    "tabular",
    "automatic-speech-recognition",
    "translation",
    "summarization",
    "image-to-text",
)
"""Every task. Its folder has its name, with underscores."""

__all__ = [
    "TASKS",
    "Batch",
    "Checkpoint",
    "Spec",
    "Task",
    "Tensors",
    "Training",
    "checkpoints",
    "get",
    "home",
    "judge",
    "spec",
    "specs",
    "trained",
]  # fmt: skip


def get(name: str) -> "Task":
    """The serving half of the task called `name`. Raises InvalidInput listing the known ones."""
    return cast("Task", importlib.import_module(f"{home(name)}.serving").TASK)


@cache
def spec(name: str) -> Spec:
    """What the task called `name` is. Raises InvalidInput listing the known ones."""
    return cast(Spec, importlib.import_module(f"{home(name)}.spec").SPEC)


@cache
def specs() -> tuple[Spec, ...]:
    """What each task is."""
    return tuple(map(spec, TASKS))


@cache
def trained() -> dict[str, Training]:
    """How each task is trained that is, by its name, in the order of names."""
    found = {each.name: each.training for each in specs() if each.training is not None}
    return dict(sorted(found.items()))


@cache
def checkpoints() -> dict[str, Checkpoint]:
    """How a Hugging Face checkpoint becomes a model of each task that takes one, by its name."""
    return {each.name: each.checkpoint for each in specs() if each.checkpoint is not None}


def judge(how: Judge) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """What measures answers against the right ones."""
    module, _, attribute = how.measures.partition(":")
    return cast(
        "Callable[[Sequence[str], Sequence[str]], dict[str, float]]",
        getattr(importlib.import_module(module), attribute),
    )


def home(name: str) -> str:
    """The package of the task called `name`. Raises InvalidInput listing the known ones."""
    if name not in TASKS:
        raise InvalidInput(f"Unknown task {name!r}; known: {', '.join(TASKS)}.", param="task")
    return f"{__name__}.{name.replace('-', '_')}"


def __getattr__(name: str) -> Any:
    """What needs arrays is loaded when it is asked for: names of tasks alone need none."""
    if name not in ("Batch", "Tensors", "Task"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.base"), name)
