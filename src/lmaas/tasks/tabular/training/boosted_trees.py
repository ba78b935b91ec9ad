"""Tables learned by boosted trees: each column is one feature, missing values are left missing."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.lightgbm import FILE
from lmaas.recipe import Optimizer, Recipe, TrainingFramework
from lmaas.tasks.tabular.options import TREES, BoostedTrees
from lmaas.tasks.tabular.training.boosting import Samples, TreeLearner
from lmaas.tasks.tabular.training.problem import Tabular
from lmaas.training import early_stopping
from lmaas.training.base import Feed, Learner, Split

ROUNDS, MOST_ROUNDS = 200, 2000
"""Without and with held-out samples that say when it is enough."""
PATIENCE_ROUNDS: Final = 40
LEARNING_RATE: Final = 0.1
CHECKPOINT_ROUNDS: Final = 25
LEAF_SAMPLES: Final = 20
LEAVES_AT_LEAST: Final = 10
"""So many smallest leaves can be made of the samples, where their size is left open."""


class BoostedTable(Tabular):
    """The problem of one recipe whose architecture is boosted trees."""

    _form = "trees"

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        _refuse(recipe)
        super().__init__(recipe, folder, base)
        if recipe.batch_size != "auto" and recipe.batch_size < self.size("train"):
            raise InvalidInput(
                f"A round of {TREES} is over all {self.size('train')} training samples; received "
                f"batch_size {recipe.batch_size}.",
                hint="Leave it out.",
                param="batch_size",
            )
        assert isinstance(self._sizes, BoostedTrees)
        if self._sizes.leaf_samples == "auto":
            least = max(1, min(LEAF_SAMPLES, self.size("train") // LEAVES_AT_LEAST))
            self._sizes = msgspec.structs.replace(self._sizes, leaf_samples=least)
            options = msgspec.to_builtins(self._sizes)
            self.model = msgspec.structs.replace(self.model, options=options)

    def resolved(self, recipe: Recipe) -> Recipe:
        """A batch is all samples, an epoch one round."""
        rate, every = recipe.optimizer.learning_rate, recipe.checkpoints.every_steps
        stopping = early_stopping.chosen(
            recipe.early_stopping, self.size("validation"), PATIENCE_ROUNDS
        )
        most = ROUNDS if stopping is None else MOST_ROUNDS
        return msgspec.structs.replace(
            recipe,
            batch_size=self.size("train"),
            epochs=most if recipe.epochs == "auto" else recipe.epochs,
            early_stopping=stopping,
            optimizer=msgspec.structs.replace(
                recipe.optimizer, learning_rate=LEARNING_RATE if rate == "auto" else rate
            ),
            checkpoints=msgspec.structs.replace(
                recipe.checkpoints, every_steps=CHECKPOINT_ROUNDS if every == "auto" else every
            ),
        )

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Of training samples their number, of held-out ones their rows in `Samples.held`."""
        if epoch is not None:
            return Feed(inputs={}, targets={}, size=len(indices), weight=len(indices))
        told = super().feed(split, indices, epoch=None)
        first = self.size("validation") if split == "test" else 0
        return msgspec.structs.replace(told, inputs={**told.inputs, "rows": indices + first})

    def build(self, framework: TrainingFramework) -> Any:
        """The text of the base's trees, None without one."""
        assert framework == self._framework, (framework, self._framework)
        if self._base is None:
            return None
        if self._base.manifest.signature.labels != self.labels:
            raise InvalidInput(
                f"The base model tells {self._base.manifest.signature.labels} apart; the data has "
                f"{self.labels}. Trees have no last layer that could be another one.",
                param="model.base",
            )
        return (self._base.folder / "source" / FILE).read_text("utf-8")

    def learner(self, model: Any, recipe: Recipe) -> Learner:
        """What adds trees to those of `model`."""
        assert isinstance(self._sizes, BoostedTrees)
        parts = {split: self._part(split) for split in ("train", "validation", "test")}
        targets = self._targets["train"]
        if not self.classifies:
            targets = (targets - self.columns.mean) / self.columns.std
        samples = Samples(
            features=parts["train"],
            targets=targets,
            held=np.concatenate([parts["validation"], parts["test"]]),
            classes=len(self.labels) if self.labels is not None else 0,
            categorical=self.columns.categorical(),
        )
        return TreeLearner(samples, self._sizes, recipe, model)

    def _part(self, split: Split) -> np.ndarray:
        part = self._splits.parts[split]
        return np.asarray(self._features[id(part.table)][part.rows])


def _refuse(recipe: Recipe) -> None:
    """Raise InvalidInput for the first option that means nothing to trees."""
    kept = {"learning_rate", "learning_rate_multiplier"}
    plain = Optimizer()
    wrong = {
        f"optimizer.{name}": getattr(recipe.optimizer, name) != getattr(plain, name)
        for name in Optimizer.__struct_fields__
        if name not in kept
    }
    wrong |= {
        "accumulate": recipe.accumulate != 1,
        "clip_norm": recipe.clip_norm is not None,
        "label_smoothing": recipe.label_smoothing != 0,
        "precision": recipe.precision != "f32",
        "pruning": recipe.pruning is not None,
        "distribution": recipe.distribution.workers > 1,
    }
    for name, unwanted in wrong.items():
        if unwanted:
            raise InvalidInput(
                f"{TREES} cannot honour {name}: they grow by whole rounds over all samples and "
                "have no weights that follow gradients.",
                hint="Leave it out, or train a network: model.architecture mlp.",
                param=name,
            )
