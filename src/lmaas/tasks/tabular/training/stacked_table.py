"""Tables learned by several kinds of models at once, of which the best, or a mixture, is taken.

Where the validation samples are a share of the training file they are learned from too: of each it
is told what those models say that have not seen it.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks.tabular.options import Stack
from lmaas.tasks.tabular.training.candidates import FITS, Kind, Rows
from lmaas.tasks.tabular.training.problem import Tabular
from lmaas.tasks.tabular.training.stacking import StackLearner
from lmaas.training.base import Feed, Learner, Split

FOLDS: Final = ((200_000, 20_000, 5), (1_000_000, 10_000, 3))
"""Up to so many cells, counted once for each of several classes, and rows so many folds; else one.
"""
MANY_CELLS: Final = 10_000_000
"""With more, drawn trees are left out where the recipe leaves the members open."""
HELD_SHARE: Final = 0.15
LEAST_HELD: Final = 100
"""So many validation samples are held out in the one fold of a large table."""


class StackedTable(Tabular):
    """The problem of one recipe whose architecture is a stack."""

    _form = "stack"
    _outputs_are = "probabilities"

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        super().__init__(recipe, folder, base)
        assert isinstance(self._sizes, Stack)
        parts = self._splits.parts
        shared = parts["validation"].table is parts["train"].table
        self._pooled = self.size("validation") if shared else 0
        rows = self.size("train") + self._pooled
        cells = rows * len(self.columns.columns)
        cells *= len(self.labels) if self.labels is not None and len(self.labels) > 2 else 1
        sizes = self._sizes
        if sizes.members == "auto":
            members = tuple(k for k in FITS if k != "random-trees" or cells <= MANY_CELLS)
            sizes = msgspec.structs.replace(sizes, members=members)
        if sizes.folds == "auto":
            sizes = msgspec.structs.replace(
                sizes,
                folds=next((f for most, few, f in FOLDS if cells <= most and rows <= few), 1),
            )
        if rows < 2 * max(2, int(sizes.folds)):
            raise InvalidInput(
                f"{rows} rows are too few to compare models on.",
                hint="Name one: model.architecture mlp or boosted-trees.",
                param="data",
            )
        self._sizes = sizes
        self.model = msgspec.structs.replace(self.model, options=msgspec.to_builtins(sizes))

    def resolved(self, recipe: Recipe) -> Recipe:
        """A batch is all samples, an epoch one candidate on one fold."""
        assert isinstance(self._sizes, Stack)
        members, folds = len(self._sizes.members), int(self._sizes.folds)
        every = recipe.checkpoints.every_steps
        looks = recipe.evaluation.every_steps
        return msgspec.structs.replace(
            recipe,
            batch_size=self.size("train"),
            epochs=members * folds,
            early_stopping=None,
            checkpoints=msgspec.structs.replace(
                recipe.checkpoints, every_steps=members if every == "auto" else every
            ),
            evaluation=msgspec.structs.replace(
                recipe.evaluation, every_steps=members if looks == "auto" else looks
            ),
        )

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Of training samples their number, of held-out ones their rows as `StackLearner` says."""
        if epoch is not None:
            return Feed(inputs={}, targets={}, size=len(indices), weight=len(indices))
        told = super().feed(split, indices, epoch=None)
        first = 0 if split == "train" else self.size("train")
        first += self.size("validation") if split == "test" else 0
        return msgspec.structs.replace(told, inputs={**told.inputs, "rows": indices + first})

    def build(self, framework: TrainingFramework) -> Any:
        """Nothing: each candidate is made where it is fitted."""
        assert framework == self._framework, (framework, self._framework)

    def learner(self, model: Any, recipe: Recipe) -> Learner:
        """What fits the candidates."""
        assert isinstance(self._sizes, Stack)
        pooled: list[Split] = ["train", *(["validation"] if self._pooled else [])]  # type: ignore[list-item]
        others: list[Split] = [*([] if self._pooled else ["validation"]), "test"]  # type: ignore[list-item]
        pool = self._gathered(pooled)
        kinds: tuple[Kind, ...] = self._sizes.members  # type: ignore[assignment]
        return StackLearner(
            pool, self._gathered(others), self._folds(pool), kinds, self._recipe.seed
        )

    def _folds(self, pool: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
        """Which rows are learned from and held out, in each fold; each class in its share."""
        assert isinstance(self._sizes, Stack)
        count, every = int(self._sizes.folds), np.arange(len(pool))
        if count == 1 and self._pooled >= LEAST_HELD:
            first = len(pool) - self._pooled
            return [(every[:first], every[first:])]
        order = np.random.default_rng([self._recipe.seed, 0xF01D]).permutation(len(pool))
        if pool.classes:
            order = order[np.argsort(pool.targets[order], kind="stable")]
        places = np.empty(len(pool), np.int64)
        parts = count if count > 1 else round(1 / HELD_SHARE)
        places[order] = every % parts
        return [
            (np.flatnonzero(places != fold), np.flatnonzero(places == fold))
            for fold in range(count)
        ]

    def _gathered(self, splits: list[Split]) -> Rows:
        width = self.columns.widths()[0]
        parts = [self._splits.parts[split] for split in splits]
        features = np.concatenate([self._features[id(p.table)][p.rows] for p in parts])
        targets = np.concatenate([self._targets[split] for split in splits])
        if not self.classifies:
            targets = (targets - self.columns.mean) / self.columns.std
        return Rows(
            trees=np.ascontiguousarray(features[:, :width]),
            dense=np.ascontiguousarray(features[:, width:]),
            targets=targets,
            classes=len(self.labels) if self.labels is not None else 0,
            categorical=self.columns.categorical(),
        )
