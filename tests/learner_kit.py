"""Small problems and models that every learner is tested with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.tasks import Row
from lmaas.training import learners
from lmaas.training.base import Facts, Feed, Learner, Loss, Meter, Split
from lmaas.training.group import ALONE

FEATURES, HIDDEN, CLASSES = 6, 16, 3


def recipe(framework: TrainingFramework = "pytorch", **more: Any) -> Recipe:
    """A resolved recipe of the points."""
    given: dict[str, Any] = {
        "name": "points",
        "task": "tabular",
        "framework": framework,
        "data": {"train": "points"},
        "epochs": 3,
        "batch_size": 16,
        "optimizer": {"learning_rate": 0.01},
    }
    return recipe_of(given | more)


class Accuracy:
    """The share of right labels."""

    def __init__(self) -> None:
        self.right = 0
        self.seen = 0

    def add(self, outputs: Row, feed: Feed) -> None:
        """Count one feed."""
        (logits,) = outputs.values()
        self.right += int((logits.argmax(1) == feed.targets["labels"]).sum())
        self.seen += feed.size

    def result(self) -> dict[str, float]:
        """The metric."""
        return {"accuracy": self.right / self.seen}


class Points:
    """Points of three clouds, and `rows` of them to train on."""

    primary = "accuracy"

    def __init__(self, rows: int = 100, held_out: int = 40) -> None:
        self.loss = Loss(name="cross-entropy")
        random = np.random.default_rng(0)
        labels = random.integers(0, CLASSES, rows + held_out)
        centres = random.standard_normal((CLASSES, FEATURES))
        points = centres[labels] + 0.8 * random.standard_normal((rows + held_out, FEATURES))
        self.x = points.astype(np.float32)
        self.y = labels.astype(np.int64)
        self.rows = rows
        self.seen: list[np.ndarray] = []

    def size(self, split: Split) -> int:
        """Nothing is there to test on."""
        return {"train": self.rows, "validation": len(self.y) - self.rows, "test": 0}[split]

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Points and labels."""
        if split == "train":
            self.seen.append(indices)
        rows = indices if split == "train" else indices + self.rows
        return Feed(
            inputs={"input": self.x[rows]},
            targets={"labels": self.y[rows]},
            size=len(rows),
            weight=float(len(rows)),
        )

    def meter(self) -> Meter:
        """Accuracy."""
        return Accuracy()

    def build(self, framework: TrainingFramework) -> Any:
        """A network with dropout and normalisation, its weights from a seed."""
        return MODELS[framework]()

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """Not here."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def pytorch() -> Any:
    """Dense, batch normalisation, dropout, dense."""
    import torch

    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN),
        torch.nn.BatchNorm1d(HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(HIDDEN, CLASSES),
    )


def pytorch_plain() -> Any:
    """Dense, dense."""
    import torch

    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
    )


MODELS: dict[TrainingFramework, Callable[[], Any]] = {"pytorch": pytorch}
"""By framework: a network with dropout and batch normalisation, logits out."""
PLAIN: dict[TrainingFramework, Callable[[], Any]] = {"pytorch": pytorch_plain}
"""By framework: the same without either, so that a batch is the sum of its parts."""


def learner(given: Recipe, *, plain: bool = False, loss: Loss | None = None) -> Learner:
    """A learner of a new model."""
    assert given.framework != "auto"
    model = (PLAIN if plain else MODELS)[given.framework]()
    make = learners.get(given.framework)
    return make(model, loss or Loss(name="cross-entropy"), given, ALONE)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two learners' weights are the same bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
