"""Small problems and models that every learner is tested with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.tasks import Tensors
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
        "early_stopping": None,
    }
    return recipe_of(given | more)


class Accuracy:
    """The share of right labels."""

    def __init__(self) -> None:
        self.right = 0
        self.seen = 0

    def add(self, outputs: Tensors, feed: Feed) -> None:
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


def keras() -> Any:
    """The same layers; on the backend of this process."""
    from keras import Input, Sequential, layers

    first, last = keras_dense()
    middle = [layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.2)]
    return Sequential([Input((FEATURES,), name="input"), first, *middle, last])


def keras_plain() -> Any:
    """Dense, dense."""
    from keras import Input, Sequential, layers

    first, last = keras_dense()
    return Sequential([Input((FEATURES,), name="input"), first, layers.ReLU(), last])


def keras_dense() -> list[Any]:
    """The two dense layers."""
    from keras import initializers, layers

    return [
        layers.Dense(width, kernel_initializer=initializers.HeNormal(seed=seed))
        for width, seed in ((HIDDEN, 3), (CLASSES, 4))
    ]


def tensorflow() -> Any:
    """The same layers."""
    import tensorflow as tf

    from lmaas.training.tensorflow.blocks import Dense, Draw

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            draw = Draw(3)
            self.first = Dense(draw, FEATURES, HIDDEN, "first")
            self.scale, self.shift = tf.Variable(tf.ones(HIDDEN)), tf.Variable(tf.zeros(HIDDEN))
            self.mean = tf.Variable(tf.zeros(HIDDEN), trainable=False)
            self.variance = tf.Variable(tf.ones(HIDDEN), trainable=False)
            self.random = tf.random.Generator.from_seed(1)
            self.last = Dense(draw, HIDDEN, CLASSES, "last")

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def __call__(self, input: Any, training: bool = False) -> Any:
            x = self.first(input)
            mean, variance = self.mean, self.variance
            if training:
                mean, variance = tf.nn.moments(x, [0])
                self.mean.assign(0.9 * self.mean + 0.1 * mean)
                self.variance.assign(0.9 * self.variance + 0.1 * variance)
            x = tf.nn.relu((x - mean) * tf.math.rsqrt(variance + 1e-5) * self.scale + self.shift)
            if training:
                x = tf.where(self.random.uniform(tf.shape(x)) < 0.2, 0.0, x / 0.8)
            return self.last(x)

    return Network()


def tensorflow_plain() -> Any:
    """Dense, dense."""
    import tensorflow as tf

    from lmaas.training.tensorflow.blocks import Dense, Draw

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            draw = Draw(3)
            self.first = Dense(draw, FEATURES, HIDDEN, "first")
            self.last = Dense(draw, HIDDEN, CLASSES, "last")

        def __call__(self, input: Any) -> Any:
            return self.last(tf.nn.relu(self.first(input)))

    return Network()


def pytorch_heads() -> Any:
    """Dense, with classes and values on it."""
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.body = torch.nn.Linear(FEATURES, HIDDEN)
            self.kind = torch.nn.Linear(HIDDEN, CLASSES)
            self.place = torch.nn.Linear(HIDDEN, FEATURES)

        def forward(self, input: Any) -> dict[str, Any]:
            told = torch.relu(self.body(input))
            return {"place": self.place(told), "kind": self.kind(told)}

    return Network()


def keras_heads() -> Any:
    """The same."""
    from keras import Input, Model, layers

    first, kind = keras_dense()
    given = Input((FEATURES,), name="input")
    told = layers.ReLU()(first(given))
    return Model(given, {"place": layers.Dense(FEATURES)(told), "kind": kind(told)})


def tensorflow_heads() -> Any:
    """The same."""
    import tensorflow as tf

    from lmaas.training.tensorflow.blocks import Dense, Draw

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            draw = Draw(3)
            self.body = Dense(draw, FEATURES, HIDDEN, "body")
            self.kind = Dense(draw, HIDDEN, CLASSES, "kind")
            self.place = Dense(draw, HIDDEN, FEATURES, "place")

        def __call__(self, input: Any) -> dict[str, Any]:
            told = tf.nn.relu(self.body(input))
            return {"place": self.place(told), "kind": self.kind(told)}

    return Network()


MODELS: dict[TrainingFramework, Callable[[], Any]] = {
    "pytorch": pytorch,
    "keras": keras,
    "tensorflow": tensorflow,
}
"""By framework: a network with dropout and batch normalisation, logits out."""
PLAIN: dict[TrainingFramework, Callable[[], Any]] = {
    "pytorch": pytorch_plain,
    "keras": keras_plain,
    "tensorflow": tensorflow_plain,
}
"""By framework: the same without either, so that a batch is the sum of its parts."""


HEADS: dict[TrainingFramework, Callable[[], Any]] = {
    "pytorch": pytorch_heads,
    "keras": keras_heads,
    "tensorflow": tensorflow_heads,
}
"""By framework: two outputs, `place` and `kind`."""


def learner(given: Recipe, *, plain: bool = False, loss: Loss | None = None) -> Learner:
    """A learner of a new model."""
    assert given.framework != "auto"
    model = (PLAIN if plain else MODELS)[given.framework]()
    make = learners.get(given.framework)
    return make(model, loss or Loss(name="cross-entropy"), given, ALONE)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two learners' weights are the same bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
