"""How two classifiers of texts are compared: the first step fits one, the others train the other.

The linear one over runs of characters is fitted at once; the network learns an epoch a step, until
the loss of the held-out samples stays higher than it was. Knows arrays and learners; no texts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import ngrams
from lmaas.tasks import Tensors
from lmaas.tasks.text_classification.training import ngram_fitting
from lmaas.training.base import Feed, Learner, Split

PATIENCE: Final = 3
STATE_FILE: Final = "rivals.json"
KEPT_FILE: Final = "kept.safetensors"


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """What both learn from: `symbols` gives a split's symbols and masks, `feed` what the network
    takes; `classes` and `kinds` of symbols are their numbers.
    """

    size: Callable[[Split], int]
    symbols: Callable[[Split, np.ndarray], Tensors]
    feed: Callable[[Split, np.ndarray, int | None], Feed]
    targets: Mapping[Split, np.ndarray]
    classes: int
    kinds: int


class RivalLearner:
    """The network in `net`, trained for `epochs` in batches of `batch`, and its rival.

    A feed of training samples names none. One of held-out samples has their numbers in the
    validation part, or in the test part after it, as its input `rows`.
    """

    def __init__(self, texts: Texts, net: Learner, *, batch: int, epochs: int, seed: int) -> None:
        self._texts, self._net = texts, net
        self._batch, self._most, self._seed = batch, epochs, seed
        self._linear: ngrams.Ngrams | None = None
        self._losses: list[float] = []
        self._epochs = 0
        self._waited = 0
        self._kept: dict[str, np.ndarray] = {}

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """Fit one, or train the other for an epoch; the loss is that of the held-out samples."""
        if self._linear is None:
            parts: list[Split] = ["train", "validation"]
            learned, held = (
                self._texts.symbols(part, np.arange(self._texts.size(part))) for part in parts
            )
            self._linear, loss = ngram_fitting.fit(
                learned,
                self._texts.targets["train"],
                held,
                self._texts.targets["validation"],
                symbols=self._texts.kinds,
                classes=self._texts.classes,
            )
            self._losses = [loss]
            return loss * weight
        if self._waited >= PATIENCE:
            return self._losses[-1] * weight
        order = np.random.default_rng([self._seed, self._epochs]).permutation(
            self._texts.size("train")
        )
        for start in range(0, len(order), self._batch):
            feed = self._texts.feed("train", order[start : start + self._batch], self._epochs)
            self._net.step([feed], learning_rate=learning_rate, weight=feed.weight)
        self._epochs += 1
        loss = self._held_loss()
        best = min(self._losses[1:], default=float("inf"))
        self._losses.append(loss)
        if loss < best:
            self._kept, self._waited = self._net.weights(), 0
        else:
            self._waited += 1
        if self._waited == PATIENCE or self._epochs == self._most:
            self._net.set_weights(self._kept)
        return loss * weight

    @property
    def model(self) -> Any:
        """The winner."""
        return self._linear if self.linear_wins else self._net.model

    @property
    def linear_wins(self) -> bool:
        """Whether the network has not told the held-out samples better, by more than chance."""
        margin = 1 - 1 / np.sqrt(self._texts.size("validation"))
        return bool(min(self._losses[1:], default=float("inf")) >= margin * self._losses[0])

    def verdict(self) -> str:
        """Which one won, and by how much, in words."""
        told = f"characters' n-grams {self._losses[0]:.4g}"
        if len(self._losses) == 1:
            return f"Compared by log loss of held-out samples: {told}."
        net = min(self._losses[1:])
        low, high = sorted((self._losses[0], net))
        ahead = 1 - low / high if high else 0.0
        name = f"n-grams win, {ahead:.1%} below"
        if not self.linear_wins:
            name = f"the network wins, {ahead:.1%} below"
        elif net < self._losses[0]:
            name = f"n-grams are taken: {ahead:.1%} may be chance with so few samples"
        return (
            f"Compared by log loss of held-out samples: {told}, a network over tokens {net:.4g} "
            f"after {self._epochs} epochs; {name}."
        )

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """See `base.Learner.evaluate`; of the winner."""
        rows = feed.inputs["rows"]
        if not self.linear_wins:
            inputs = {name: array for name, array in feed.inputs.items() if name != "rows"}
            return self._net.evaluate(msgspec.structs.replace(feed, inputs=inputs))
        held = self._texts.size("validation")
        split: Split = "validation" if rows[0] < held else "test"
        symbols = self._texts.symbols(split, rows - (0 if split == "validation" else held))
        told = ngrams.FRAMEWORK.run(self._linear, symbols)
        (scores,) = (array.astype(np.float64) for array in told.values())
        highest = scores.max(1, keepdims=True)
        summed = np.log(np.exp(scores - highest).sum(1)) + highest[:, 0]
        own = scores[np.arange(len(scores)), feed.targets["labels"]]
        return float((summed - own).sum()), told

    def _held_loss(self) -> float:
        total, size = 0.0, self._texts.size("validation")
        for start in range(0, size, self._batch):
            rows = np.arange(start, min(size, start + self._batch))
            total += self._net.evaluate(self._texts.feed("validation", rows, None))[0]
        return total / size

    def weights(self) -> dict[str, np.ndarray]:
        """The network's."""
        return self._net.weights()

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `base.Learner.set_weights`; the network's."""
        self._net.set_weights(weights)

    def prunable(self) -> list[str]:
        """None."""
        return []

    def input_axis(self, name: str) -> int:
        """Rivals are not pruned."""
        raise InvalidInput("Models that are compared are not pruned.", param="pruning")

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Rivals are not pruned."""
        raise InvalidInput("Models that are compared are not pruned.", param="pruning")

    def save(self, folder: Path) -> None:
        """Both, and how far they are."""
        from safetensors.numpy import save_file

        self._net.save(folder)
        ngrams.FRAMEWORK.save(self._linear, folder, {})
        if self._kept:
            kept = {name: np.ascontiguousarray(array) for name, array in self._kept.items()}
            save_file(kept, folder / KEPT_FILE)
        state = {"losses": self._losses, "epochs": self._epochs, "waited": self._waited}
        (folder / STATE_FILE).write_text(json.dumps(state), "utf-8")

    def load(self, folder: Path) -> None:
        """See `base.Learner.load`."""
        from safetensors.numpy import load_file

        state = json.loads((folder / STATE_FILE).read_text("utf-8"))
        self._losses, self._epochs = state["losses"], state["epochs"]
        self._waited = state["waited"]
        self._linear = ngrams.FRAMEWORK.load(folder)
        if self._epochs:
            self._net.load(folder)
        kept = folder / KEPT_FILE
        self._kept = load_file(kept) if kept.exists() else {}
