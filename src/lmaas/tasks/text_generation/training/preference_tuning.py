"""Language models tuned on preferences: of two answers, the one that people like gets likelier.

Direct preference optimisation (Rafailov et al., 2023). The reference is the base as it was; what
it thinks of every answer is computed once, before training, and kept in the job's folder.
"""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.data.conversations import Read, read_pairs
from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.text_generation.training.encoding import Encoded
from lmaas.tasks.text_generation.training.problem import TextGeneration
from lmaas.training.base import IGNORED, Feed, Loss, Meter, Split

PAIRS: Final = 8
"""How many pairs the reference reads at once."""
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")


class PreferenceTuning(TextGeneration):
    """The problem of one recipe. A row is a pair: the preferred answer and the other one."""

    primary = "reward_accuracy"

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        if base is None:
            raise InvalidInput(
                "Preferences tune a model that writes already; the recipe names none.",
                hint="Give model.base: a model that was trained on good answers.",
                param="model.base",
            )
        super().__init__(recipe, folder, base)
        self.loss = Loss(name="preference", beta=recipe.method.beta)
        self._references: dict[Split, np.ndarray] = {}

    def _file(self, path: Path) -> Read[Any]:
        return read_pairs(path, self._recipe.data.encoding)

    def _encoded(self, sample: Any, place: str) -> list[list[Encoded]]:
        ends = [self._encoder.encode(e, place) for e in (sample.preferred, sample.other)]
        if any(len(end) != 1 for end in ends):
            raise InvalidInput(
                f"{place}: the chat template changes earlier turns of an answer when later ones "
                "follow, so its turns are not one text.",
                hint="Give preferred_output and non_preferred_output of one message each.",
                param="data",
            )
        (preferred,), (other,) = ends
        if np.array_equal(preferred.ids, other.ids):
            raise InvalidInput(f"{place}: both answers are the same.", param="data")
        return [[preferred, other]]

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """The preferred rows, then the others, padded to the longest; `reference` (2N,) beside the
        labels.
        """
        feed = self._pairs(split, indices)
        if not self._references:
            self._refer()
        feed.targets["reference"] = self._references[split][indices].T.reshape(-1)
        return feed

    def _pairs(self, split: Split, indices: np.ndarray) -> Feed:
        pairs = [self._rows[split][i] for i in indices]
        rows = [[pair[end]] for end in (0, 1) for pair in pairs]
        inputs, labels = self._padded(rows)
        size = len(pairs)
        return Feed(inputs=inputs, targets={"labels": labels}, size=size, weight=size)

    def _refer(self) -> None:
        """Find out, or read, what the reference thinks: (N, 2) log-probabilities a split.

        Workers of a run all take what the first one of them wrote.
        """
        from safetensors.numpy import load_file, save_file

        path = self._folder / "reference.safetensors"
        if not path.exists():
            scratch = path.with_suffix(f".{os.getpid()}")
            save_file({split: self._referred(split) for split in SPLITS}, scratch)
            with scratch.open("rb") as written:
                os.fsync(written.fileno())
            try:
                os.link(scratch, path)
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
        found = load_file(path)
        self._references = {split: found[split] for split in SPLITS}

    def _referred(self, split: Split) -> np.ndarray:
        from lmaas.training.pytorch.language import log_probabilities

        parts = [np.arange(i, min(i + PAIRS, self.size(split)))
                 for i in range(0, self.size(split), PAIRS)]  # fmt: skip
        feeds = (self._pairs(split, part) for part in parts)
        told = log_probabilities(self._base, feeds, bf16=self._recipe.precision == "bf16")
        return np.concatenate([np.zeros((0, 2), np.float32), *(t.reshape(2, -1).T for t in told)])

    def build(self, framework: TrainingFramework) -> Any:
        """The model in float32, with adapters where the recipe has them.

        The reference has had its say before, so that there is one model in memory at a time.
        """
        self._refer()
        return super().build(framework)

    def meter(self) -> Meter:
        """Of how many pairs the preferred answer gained more on the reference, and how much more.

        A reward is beta times the log-probability over the reference's.
        """
        return _Rewards(self._recipe.method.beta)


class _Rewards:
    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._margins: list[np.ndarray] = []

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count one feed."""
        (logits,) = outputs.values()
        labels = feed.targets["labels"]
        rewards = []
        for row, label, reference in zip(logits, labels, feed.targets["reference"], strict=True):
            where = label != IGNORED
            chosen = row[where].astype(np.float64)
            top = chosen.max(-1, keepdims=True)
            log_sum = np.log(np.exp(chosen - top).sum(-1)) + top[:, 0]
            told = chosen[np.arange(len(chosen)), label[where]] - log_sum
            rewards.append(self._beta * (told.sum() - reference))
        preferred, other = np.array(rewards).reshape(2, -1)
        self._margins.append(preferred - other)

    def result(self) -> dict[str, float]:
        """`reward_accuracy` and `reward_margin`, means over the pairs."""
        margins = np.concatenate(self._margins)
        return {
            "reward_accuracy": float((margins > 0).mean()),
            "reward_margin": float(margins.mean()),
        }
