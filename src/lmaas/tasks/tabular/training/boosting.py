"""How boosted trees take a training step: one round of LightGBM over all samples.

Knows LightGBM's boosters and arrays; no task, no schedule and no files but its own. A booster that
goes on from a text grows the trees that it would have grown without a break: its scores are the
same sums, and what is random in a round follows from the seed and the round alone.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.lightgbm import booster_of, logits, text_of
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors
from lmaas.tasks.tabular.options import BoostedTrees
from lmaas.training.base import Diverged, Feed

TREES_FILE: Final = "trees.txt"
STATE_FILE: Final = "rounds.json"
ROUNDS: Final = "rounds"
SEEDS: Final = 1 << 30
CELLS_A_THREAD: Final = 100_000
"""With fewer cells threads wait for each other longer than they work."""


class Samples(msgspec.Struct, kw_only=True):
    """What is learned, and what is looked at.

    `features` (N, F) and `held` (M, F) float32, NaN where missing; `targets` (N,) class numbers or
    values. `classes` is 0 for values. `categorical` are columns of whole numbers from 0 on.
    """

    features: np.ndarray
    targets: np.ndarray
    held: np.ndarray
    classes: int
    categorical: list[int]


class TreeLearner:
    """A booster in training, from the trees in the text `start` or from none.

    A feed of training samples names none: every step is over all of them. One of held-out samples
    has their numbers in `Samples.held` as its input `rows`.
    """

    def __init__(
        self, samples: Samples, options: BoostedTrees, recipe: Recipe, start: str | None
    ) -> None:
        self._samples = samples
        self._parameters = _parameters(samples, options, recipe.seed)
        self._draws = options.column_share < 1
        self._seed = recipe.seed
        self._steps = 0
        self._rate = 0.0
        self.model: Any = booster_of(start) if start else None
        self._grows = False
        self._scored = 0
        self._scores: np.ndarray | None = None

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """A round more: a tree for each score. The summed loss over all samples after it."""
        change: dict[str, Any] = {}
        if self._draws:
            change["feature_fraction_seed"] = (self._seed * 1_000_003 + self._steps) % SEEDS
        if learning_rate != self._rate:
            change["learning_rate"] = learning_rate
        if self._grows:
            if change:
                self.model.reset_parameter(change)
            self.model.update()
        else:
            self._begin(self._parameters | change)
        self._rate = learning_rate
        self._steps += 1
        loss = float(self.model.eval_train()[0][2])
        if not math.isfinite(loss):
            raise Diverged(f"The loss is {loss}.")
        return loss * weight

    def _begin(self, parameters: dict[str, Any]) -> None:
        """The first round of this process."""
        import lightgbm

        data = lightgbm.Dataset(
            self._samples.features,
            self._samples.targets,
            categorical_feature=self._samples.categorical,
            params=parameters,
        )
        self.model = lightgbm.train(
            parameters,
            data,
            num_boost_round=1,
            init_model=self.model,
            keep_training_booster=True,
        )
        self._grows = True

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """See `base.Learner.evaluate`."""
        scores = self._held_scores()[feed.inputs["rows"]]
        outputs = {"scores": logits(scores, binary=self._samples.classes == 2)}
        if not self._samples.classes:
            return float(((scores - feed.targets["values"]) ** 2).sum()), outputs
        if self._samples.classes == 2:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        highest = scores.max(axis=1)
        summed = np.log(np.exp(scores - highest[:, None]).sum(axis=1)) + highest
        own = scores[np.arange(len(scores)), feed.targets["labels"]]
        return float((summed - own).sum()), outputs

    def weights(self) -> dict[str, np.ndarray]:
        """The number of rounds: trees do not change once they are grown."""
        return {ROUNDS: np.array([self._rounds()], np.int64)}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Cut off all later rounds."""
        self.model = booster_of(text_of(self.model, int(weights[ROUNDS][0])))
        self._grows, self._scores = False, None

    def prunable(self) -> list[str]:
        """None."""
        return []

    def input_axis(self, name: str) -> int:
        """Trees have no matrices."""
        raise InvalidInput("Boosted trees have no weights to prune.", param="pruning")

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Trees have no matrices."""
        raise InvalidInput("Boosted trees have no weights to prune.", param="pruning")

    def save(self, folder: Path) -> None:
        """The trees as text, and the count of rounds that were tried."""
        (folder / TREES_FILE).write_text(text_of(self.model), "utf-8")
        (folder / STATE_FILE).write_text(json.dumps({"steps": self._steps}), "utf-8")

    def load(self, folder: Path) -> None:
        """See `base.Learner.load`."""
        self.model = booster_of((folder / TREES_FILE).read_text("utf-8"))
        self._steps = int(json.loads((folder / STATE_FILE).read_text("utf-8"))["steps"])
        self._grows, self._scores, self._rate = False, None, 0.0

    def _rounds(self) -> int:
        return int(self.model.current_iteration()) if self.model is not None else 0

    def _held_scores(self) -> np.ndarray:
        """Raw scores (M, S) of the held-out samples, those of new rounds added to the others."""
        rounds = self._rounds()
        if self._scores is None:
            self._scored = 0
            self._scores = np.zeros((len(self._samples.held), max(1, self._width())))
        if rounds > self._scored and len(self._samples.held):
            more = self.model.predict(
                self._samples.held,
                raw_score=True,
                num_threads=self._parameters["num_threads"],
                start_iteration=self._scored,
                num_iteration=rounds - self._scored,
            )
            self._scores += more.reshape(self._scores.shape)
        self._scored = rounds
        return self._scores

    def _width(self) -> int:
        return self._samples.classes if self._samples.classes > 2 else 1


def _parameters(samples: Samples, options: BoostedTrees, seed: int) -> dict[str, Any]:
    assert options.leaf_samples != "auto"
    cells = samples.features.size
    objective: dict[str, Any] = {"objective": "regression", "metric": "l2"}
    if samples.classes == 2:
        objective = {"objective": "binary", "metric": "binary_logloss"}
    elif samples.classes:
        objective = {"objective": "multiclass", "metric": "multi_logloss"}
        objective["num_class"] = samples.classes
    return {
        **objective,
        "num_leaves": options.leaves,
        "max_depth": options.depth,
        "min_data_in_leaf": options.leaf_samples,
        "feature_fraction": options.column_share,
        "max_bin": options.bins,
        "lambda_l1": options.l1,
        "lambda_l2": options.l2,
        "num_threads": max(1, min(os.cpu_count() or 1, cells // CELLS_A_THREAD)),
        "seed": seed,
        "deterministic": True,
        # Which of the two is faster is otherwise measured, and both add in another order.
        "force_col_wise": True,
        "verbosity": -1,
    }
