"""What a model does: sample in, result out, metrics. One file a task.

Knows signatures and codecs; knows no frameworks, engines or transport.
"""

import importlib
from typing import Final, cast

from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Row, Task

TASKS = {
    "image-classification": "lmaas.tasks.image_classification",
    "tensor": "lmaas.tasks.tensor",
    "text-generation": "lmaas.tasks.text_generation",
    "embedding": "lmaas.tasks.embedding",
    "text-ranking": "lmaas.tasks.text_ranking",
    "text-classification": "lmaas.tasks.text_classification",
    "tabular": "lmaas.tasks.tabular",
}
"""Each task's module, imported on first use; the module's `TASK` is the task."""

STREAMING: Final = frozenset({"text-generation"})
"""The tasks that generate text as a stream: their requests are `language.GenerateRequest`s, and
an engine that streams serves them."""

__all__ = ["STREAMING", "TASKS", "Batch", "Row", "Task", "get", "streams"]


def streams(name: str) -> bool:
    """Whether models for the task `name` generate text as a stream."""
    return name in STREAMING


def get(name: str) -> Task:
    """The task called `name`. Raises InvalidInput listing the known ones."""
    if name not in TASKS:
        raise InvalidInput(f"Unknown task {name!r}; known: {', '.join(TASKS)}.", param="task")
    return cast(Task, importlib.import_module(TASKS[name]).TASK)
