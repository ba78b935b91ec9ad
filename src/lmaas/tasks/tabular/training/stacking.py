"""How a stack takes a training step: one candidate is fitted on one fold.

Every candidate is asked for the samples of each fold that it has not seen, so one set of samples
serves to learn, to choose and to weigh (Breiman, 1996; van der Laan et al., 2007). Knows arrays and
candidates; no task, no schedule and no files but its own.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.stack import FRAMEWORK, Member, Stack, SubModel, outputs
from lmaas.runtime import cpu
from lmaas.tasks import Tensors
from lmaas.tasks.tabular.training.candidates import FITS, Kind, Rows, answers, loss
from lmaas.training.base import Feed

LEAST_WEIGHT: Final = 0.03
"""What counts less is left out: it costs more time than it gives."""
LEAST_GAIN: Final = 0.002
"""By such a share a stack's loss must be below that of its best member."""
BEHIND_LOG, BEHIND_ROOT = 2.0, 1.25
"""A candidate whose log loss, or RMSE, on the first fold is so many times that of the best is not
fitted on the others: it would count for nothing.
"""
ROUNDS: Final = 300
TOLD_FILE: Final = "told.safetensors"


class StackLearner:
    """Candidates `kinds` over `folds`: pairs of the rows that are learned from and held out.

    A feed of training samples names none. One of held-out samples has their numbers in `pool`, or
    in `others` after it, as its input `rows`; of the pool it is told what those models say that
    have not seen them.
    """

    def __init__(
        self,
        pool: Rows,
        others: Rows,
        folds: Sequence[tuple[np.ndarray, np.ndarray]],
        kinds: Sequence[Kind],
        seed: int,
    ) -> None:
        self._pool, self._others = pool, others
        self._folds, self._kinds, self._seed = folds, kinds, seed
        self._parts: list[SubModel | None] = []
        self._ready: dict[tuple[int, int], SubModel] = {}
        width = pool.classes or 1
        self._told = np.full((len(kinds), len(pool), width), np.nan)

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """Fit one candidate on one fold; the summed loss is that of the samples held out.

        A candidate that was far behind on the first fold is fitted on no other.
        """
        fold, number = divmod(len(self._parts), len(self._kinds))
        if fold and number not in self._runs():
            self._parts.append(None)
            return self._fold_loss(number, 0) * weight
        part = self._fitted(number, fold)
        held = self._folds[fold][1]
        self._parts.append(part)
        self._told[number, held] = answers(part, self._pool.take(held))
        return self._fold_loss(number, fold) * weight

    def _fitted(self, number: int, fold: int) -> SubModel:
        """A candidate on a fold. Those after it are fitted beside it, for their own steps.

        Most candidates of a small table use one core. What each comes to does not depend on it.
        """
        from threadpoolctl import threadpool_limits

        if (number, fold) not in self._ready:
            kinds = [n for n in range(number, len(self._kinds)) if not fold or n in self._runs()]
            # Many small products take longer in threads that wait for each other.
            with (
                threadpool_limits(1, user_api="blas"),
                ThreadPoolExecutor(cpu.threads(), "candidates") as workers,
            ):
                found = workers.map(lambda n: self._fit(n, fold), kinds)
                self._ready = {(n, fold): part for n, part in zip(kinds, found, strict=True)}
        return self._ready.pop((number, fold))

    def _fit(self, number: int, fold: int) -> SubModel:
        fit, held = (self._pool.take(rows) for rows in self._folds[fold])
        return FITS[self._kinds[number]](fit, held, self._seed + fold)

    @property
    def model(self) -> Stack:
        """The candidates that are still in the race, with the weights that they have earned."""
        members = []
        for number, weight in self._weights().items():
            parts = [part for part in self._parts[number :: len(self._kinds)] if part is not None]
            members.append(Member(name=self._kinds[number], weight=weight, parts=parts))
        widths = (self._pool.trees.shape[1], self._pool.dense.shape[1])
        return Stack(widths=widths, classes=self._pool.classes, members=members)

    def verdict(self) -> str:
        """Which candidate won, and by how much, in words."""
        rows = self._covered()
        losses = {number: self._loss({number: 1.0}, rows) for number in self._runs()}
        order = sorted(losses, key=lambda number: losses[number])
        told = [f"{self._kinds[number]} {losses[number]:.4g}" for number in order]
        out = [n for n in range(min(len(self._parts), len(self._kinds))) if n not in losses]
        told += [
            f"{self._kinds[n]} {self._fold_loss(n, 0):.4g}"
            + (" (on the first fold, no further)" if len(self._folds) > 1 else " (far behind)")
            for n in out
        ]
        unit = "log loss" if self._pool.classes else "RMSE, in deviations of the target,"
        count = len(self._folds)
        how = f"in a cross-validation of {count} folds" if count > 1 else "of held-out samples"
        text = f"Compared by {unit} {how}: {', '.join(told)}."
        best, weights = order[0], self._weights()
        if len(weights) > 1:
            together = self._loss(weights, rows)
            gain = 1 - together / losses[best] if losses[best] else 0.0
            parts = " + ".join(f"{w:.2f} {self._kinds[number]}" for number, w in weights.items())
            name = self._kinds[best]
            return f"{text} Together ({parts}) {together:.4g}: wins, {gain:.1%} below {name}."
        if len(order) == 1:
            return f"{text} {self._kinds[best]} wins."
        ahead = 1 - losses[best] / losses[order[1]] if losses[order[1]] else 0.0
        second = self._kinds[order[1]]
        return f"{text} {self._kinds[best]} wins, {ahead:.1%} below {second}; together no better."

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """See `base.Learner.evaluate`. Logarithms of probabilities, or numbers."""
        rows = feed.inputs["rows"]
        inside = rows < len(self._pool)
        told = np.empty((len(rows), self._told.shape[2]))
        weights = self._weights()
        if inside.any():
            told[inside] = np.nan_to_num(self._mixed(weights, rows[inside]))
        if not inside.all():
            at = rows[~inside] - len(self._pool)
            features = np.concatenate([self._others.trees[at], self._others.dense[at]], axis=1)
            told[~inside] = outputs(self.model, features)
        every = self._pool.take(np.zeros(0, np.int64))
        wanted = feed.targets["labels"] if every.classes else feed.targets["values"][:, 0]
        summed = float(loss(told, msgspec.structs.replace(every, targets=wanted)).sum())
        scores = np.log(np.maximum(told, 1e-7)) if every.classes else told
        return summed, {"outputs": scores.astype(np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        """How many candidates are fitted: they do not change."""
        return {"parts": np.array([len(self._parts)], np.int64)}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Leave out all later candidates."""
        self._parts = self._parts[: int(weights["parts"][0])]

    def prunable(self) -> list[str]:
        """None."""
        return []

    def input_axis(self, name: str) -> int:
        """A stack's weights are not pruned."""
        raise InvalidInput("A stack has no weights to prune.", param="pruning")

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """A stack's weights are not pruned."""
        raise InvalidInput("A stack has no weights to prune.", param="pruning")

    def save(self, folder: Path) -> None:
        """What is fitted, and what it tells of the samples that it has not seen."""
        from safetensors.numpy import save_file

        members = [
            Member(name="part", weight=1.0, parts=[] if part is None else [part])
            for part in self._parts
        ]
        FRAMEWORK.save(Stack(widths=(0, 0), classes=0, members=members), folder, {})
        save_file({"told": self._told}, folder / TOLD_FILE)

    def load(self, folder: Path) -> None:
        """See `base.Learner.load`."""
        from safetensors.numpy import load_file

        members = FRAMEWORK.load(folder).members
        self._parts = [member.parts[0] if member.parts else None for member in members]
        self._told = load_file(folder / TOLD_FILE)["told"]

    def _covered(self) -> np.ndarray:
        """The samples held out of the folds on which every candidate is fitted."""
        folds = max(1, len(self._parts) // len(self._kinds))
        return np.sort(np.concatenate([held for _, held in self._folds[:folds]]))

    def _runs(self) -> list[int]:
        """The candidates that are not far behind on the first fold."""
        fitted = range(min(len(self._parts), len(self._kinds)))
        losses = [self._fold_loss(number, 0) for number in fitted]
        most = (BEHIND_LOG if self._pool.classes else BEHIND_ROOT) * min(losses)
        return [number for number in fitted if losses[number] <= most]

    def _fold_loss(self, number: int, fold: int) -> float:
        return self._loss({number: 1.0}, self._folds[fold][1])

    def _mixed(self, weights: Mapping[int, float], rows: np.ndarray) -> np.ndarray:
        told = self._told[list(weights)][:, rows]
        return np.asarray(np.tensordot(np.array(list(weights.values())), told, axes=1))

    def _loss(self, weights: Mapping[int, float], rows: np.ndarray) -> float:
        mean = float(loss(self._mixed(weights, rows), self._pool.take(rows)).mean())
        return mean if self._pool.classes else float(np.sqrt(mean))

    def _weights(self) -> dict[int, float]:
        """Of each candidate that counts, the weight that is best for the samples not seen.

        They sum up to 1.
        """
        running, rows = self._runs(), self._covered()
        told, apart = self._told[running][:, rows], self._pool.take(rows)
        found = _mixture(told, apart) if apart.classes else _mean(told[:, :, 0], apart.targets)
        found = np.where(found < LEAST_WEIGHT, 0, found)
        found /= found.sum()
        weights = {n: float(w) for n, w in zip(running, found, strict=True) if w}
        losses = {number: self._loss({number: 1.0}, rows) for number in running}
        best = min(losses, key=lambda number: losses[number])
        if self._loss(weights, rows) > (1 - LEAST_GAIN) * losses[best]:
            return {best: 1.0}
        return weights


def _mixture(told: np.ndarray, rows: Rows) -> np.ndarray:
    """Shares of a mixture of probabilities (M, N, C), by expectation and maximisation."""
    own = np.maximum(told[:, np.arange(len(rows)), rows.targets], 1e-7)
    weights = np.full(len(told), 1 / len(told))
    for _ in range(ROUNDS):
        parts = weights[:, None] * own
        weights = (parts / parts.sum(0)).mean(1)
    return weights


def _mean(told: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights of numbers (M, N) with the least squared error, none below 0, that sum up to 1."""
    from scipy.optimize import nnls

    heavy = 1e3 * float(np.sqrt(len(targets)))
    left = np.concatenate([told.T, np.full((1, len(told)), heavy)])
    found, _ = nnls(left, np.concatenate([targets, [heavy]]))
    return np.asarray(found / found.sum()) if found.sum() else np.full(len(told), 1 / len(told))
