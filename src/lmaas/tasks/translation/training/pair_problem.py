"""What all translators learn from: pairs of texts in three parts, and what is measured on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors, text_metrics
from lmaas.tasks.translation.options import PairDataOptions
from lmaas.tasks.translation.spec import SPEC
from lmaas.training import pairs
from lmaas.training.base import IGNORED, Feed, Loss, Meter, Split
from lmaas.training.problems.options import data_options
from lmaas.training.problems.splits import Splits

MOST_WRITTEN: Final = 1000
"""So many held-out texts are written out at an evaluation; the loss is that of all."""
CUT: Final = "Split the texts at sentences, raise data.options.max_length, or leave the pair out."


class PairProblem(ABC):
    """The data of one recipe. Whoever derives from it knows the tokens and the network.

    `_load` reads the data, once the tokens are known.
    """

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe = recipe
        self._options = data_options(recipe, PairDataOptions)
        if recipe.method.type != "supervised":
            raise InvalidInput("translation learns supervised, not by dpo.", param="method")
        if recipe.augmentation:
            raise InvalidInput("translation takes no augmentation.", param="augmentation")
        self.loss = Loss(name="next-token", smoothing=recipe.label_smoothing)
        self._splits = Splits(
            recipe, folder, fields=SPEC.trained.columns, content=SPEC.trained.columns
        )
        self._columns = [self._splits.columns[field] for field in SPEC.trained.columns]
        for table in {id(p.table): p.table for p in self._splits.parts.values()}.values():
            for column in self._columns:
                table.texts(column)
        self._data: dict[Split, pairs.Encoded] = {}

    @abstractmethod
    def _encode(self, sources: list[str], targets: list[str]) -> pairs.Encoded:
        """The tokens of pairs."""

    @abstractmethod
    def _write(self, feed: Feed) -> list[list[int]]:
        """What the network as it is now writes."""

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of what was written."""

    def _load(self, most: dict[str, int]) -> None:
        """Read all parts. Raises InvalidInput, with the line, for a side of more tokens."""
        for split, part in self._splits.parts.items():
            sources, targets = (part.table.values(column, part.rows) for column in self._columns)
            found = self._encode(sources, targets)

            def place(index: int, part: Any = part) -> str:
                return str(part.table.place(int(part.rows[index])))

            found.check(most, place, CUT)
            self._data[split] = found

    def size(self, split: Split) -> int:
        """How many pairs a split has."""
        return len(self._data[split])

    def lengths(self) -> np.ndarray:
        """The tokens of each pair to train on."""
        train = self._data["train"]
        both = zip(train.sources, train.targets, strict=True)
        return np.array([len(source) + len(target) for source, target in both])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Token ids and masks of both sides, and what follows each token."""
        return self._data[split].feed(indices)

    def meter(self) -> Meter:
        """Metrics of what the model writes, and of its next tokens."""
        return _Written(self._write, self._decode)

    def _some(self) -> list[str]:
        """A few sources that the package is proven with."""
        split: Split = "validation" if self.size("validation") else "train"
        part = self._splits.parts[split]
        return list(part.table.values(self._columns[0], part.rows[:8]))

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and overlap; what texts become."""
        return {
            **self._splits.facts(),
            "tokens": int(self.lengths().sum()),
            "measured": {
                "bleu": text_metrics.BLEU_SIGNATURE,
                "chrf": text_metrics.CHRF_SIGNATURE,
                "written": f"greedily, at most {MOST_WRITTEN} texts of a split",
            },
        }


def most_written(feed: Feed) -> int:
    """So many tokens end a text: a quarter more than the longest right answer has."""
    return int(feed.targets["labels"].shape[1]) * 5 // 4 + 8


class _Written:
    """Counts over the learned tokens, and over texts that are written out."""

    def __init__(
        self, write: Callable[[Feed], list[list[int]]], decode: Callable[[list[int]], str]
    ) -> None:
        self._write, self._decode = write, decode
        self._counts = text_metrics.Counts()
        self._texts = self._hits = self._tokens = 0

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count one feed."""
        (logits,) = outputs.values()
        labels = feed.targets["labels"]
        there = labels != IGNORED
        self._hits += int((logits.argmax(-1) == labels)[there].sum())
        self._tokens += int(there.sum())
        if self._texts >= MOST_WRITTEN:
            return
        self._texts += feed.size
        for ids, right in zip(self._write(feed), labels.tolist(), strict=True):
            # The last label is the end's; the vocabulary loses nothing of a text.
            wanted = [label for label in right if label != IGNORED][:-1]
            self._counts.add(self._decode(ids), self._decode(wanted))

    def result(self) -> dict[str, float]:
        """The metrics."""
        accuracy = self._hits / max(1, self._tokens)
        return {**self._counts.result(), "token_accuracy": accuracy}
