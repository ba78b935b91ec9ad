"""The plain training loop of each framework, as its own tutorials have it, on data in memory.

`python -m benchmarks.peers.plain_training RECIPE FOLDER [BASE]` prints `step seconds` lines, the
first after the first step. It opens the data as LMaaS does, so that the network and the arrays are
the same, takes all of it into memory, and needs LMaaS no more.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.recipe import Recipe
from lmaas.training import problems

TELL_S: Final = 0.5


class Clock:
    """Says how far the loop is, twice a second."""

    def __init__(self) -> None:
        self._told = 0.0
        self._step = 0

    def tick(self) -> None:
        """Count a step that is done."""
        self._step += 1
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told = now
            print(self._step, time.time(), flush=True)


def orders(rows: int, batch: int, steps: int) -> Iterator[np.ndarray]:
    """The batches' rows, shuffled anew in each epoch."""
    random, done = np.random.default_rng(0), 0
    while True:
        order = random.permutation(rows)
        for start in range(0, rows - rows % batch, batch):
            yield order[start : start + batch]
            done += 1
            if done == steps:
                return


def pytorch(model: Any, recipe: Recipe, x: dict[str, Any], y: np.ndarray, steps: int) -> None:
    """Tensors, autograd, torch's AdamW in its fused form."""
    import torch

    inputs = {name: torch.from_numpy(array) for name, array in x.items()}
    labels = torch.from_numpy(y)
    rate = recipe.optimizer.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    clock = Clock()
    model.train()
    for rows in orders(len(y), int(recipe.batch_size), steps):
        picked = torch.from_numpy(rows)
        optimizer.zero_grad()
        logits = model(**{name: tensor[picked] for name, tensor in inputs.items()})
        wanted = labels[picked]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())
        loss.backward()
        optimizer.step()
        loss.item()
        clock.tick()


def keras(model: Any, recipe: Recipe, x: dict[str, Any], y: np.ndarray, steps: int) -> None:
    """`model.fit`."""
    import keras

    class Tick(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.clock, self.left = Clock(), steps

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.clock.tick()
            self.left -= 1
            if not self.left:
                self.model.stop_training = True

    model.compile(
        keras.optimizers.AdamW(recipe.optimizer.learning_rate, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batch = int(recipe.batch_size)
    epochs = -(-steps // (len(y) // batch))
    fed = x if len(x) > 1 else next(iter(x.values()))
    model.fit(fed, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=[Tick()])


def tensorflow(model: Any, recipe: Recipe, x: dict[str, Any], y: np.ndarray, steps: int) -> None:
    """A step under `tf.function`, a `tf.data` pipeline, Keras's AdamW."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.AdamW(recipe.optimizer.learning_rate, weight_decay=0.01)
    optimizer.build(model.trainable_variables)
    batch = int(recipe.batch_size)
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y)).repeat()
    data = data.batch(batch, drop_remainder=True).take(steps).prefetch(tf.data.AUTOTUNE)

    @tf.function  # type: ignore[untyped-decorator]
    def step(inputs: dict[str, Any], labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(**inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    clock = Clock()
    for inputs, labels in data:
        float(step(inputs, labels))
        clock.tick()


LOOPS: Final[dict[str, Callable[..., None]]] = {
    "pytorch": pytorch,
    "keras": keras,
    "tensorflow": tensorflow,
}


def main() -> None:
    """Train for as many steps as the recipe says."""
    recipe = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Recipe)
    base = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    problem = problems.open(recipe, Path(sys.argv[2]), base)
    assert recipe.framework != "auto"
    assert recipe.steps is not None
    rows = np.arange(problem.size("train"))
    feed = problem.feed("train", rows, epoch=None)
    model = problem.build(recipe.framework)
    del problem
    (labels,) = feed.targets.values()
    LOOPS[recipe.framework](model, recipe, feed.inputs, labels, recipe.steps)


if __name__ == "__main__":
    main()
