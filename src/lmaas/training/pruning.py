"""Weight pruning while training: which single weights are set to zero, and when.

Masks are computed from the weights' magnitudes on arrays, so all frameworks prune alike; holding
weights at zero is the learner's matter. Sparsity grows on a cubic curve (Zhu and Gupta, "To prune,
or not to prune", 2017); 2:4 is the pattern of Mishra et al., 2021.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Pruning
from lmaas.training.base import Learner

GROUP = 4
KEPT_OF_GROUP = 2


def sparsity_at(rule: Pruning, step: int, total_steps: int) -> float:
    """The share of weights that is zero after `step` steps: 0 before `begin`, all after `end`."""
    begin, end = rule.begin * total_steps, rule.end * total_steps
    if step < begin:
        return 0.0
    at = 1.0 if end <= begin else min(1.0, (step - begin) / (end - begin))
    return rule.sparsity * (1 - (1 - at) ** 3)


def update_steps(rule: Pruning, total_steps: int) -> list[int]:
    """The steps after which masks are made anew: `updates` of them, the last at `end`."""
    begin, end = rule.begin * total_steps, rule.end * total_steps
    points = np.linspace(begin, end, rule.updates + 1)[1:]
    return sorted({max(1, min(total_steps, round(float(p)))) for p in points})


def magnitude_masks(
    weights: Mapping[str, np.ndarray], sparsity: float, *, across_layers: bool
) -> dict[str, np.ndarray]:
    """False for the smallest |w|: exactly round(sparsity * n) of all weights, or of each array.

    Of equals, the earlier ones go.
    """
    if across_layers:
        flat = np.concatenate([np.abs(w).ravel() for w in weights.values()])
        kept = _largest(flat, sparsity)
        ends = np.cumsum([w.size for w in weights.values()])[:-1]
        parts = np.split(kept, ends)
        return {
            name: part.reshape(w.shape)
            for (name, w), part in zip(weights.items(), parts, strict=True)
        }
    return {
        name: _largest(np.abs(w).ravel(), sparsity).reshape(w.shape) for name, w in weights.items()
    }


def _largest(magnitudes: np.ndarray, sparsity: float) -> np.ndarray:
    out = round(sparsity * magnitudes.size)
    kept = np.ones(magnitudes.size, dtype=bool)
    if out:
        kept[np.argsort(magnitudes, kind="stable")[:out]] = False
    return kept


def two_of_four_masks(
    weights: Mapping[str, np.ndarray], axes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """True for the two largest of each four neighbours along the axis that is summed over.

    `axes` says which that is for each array. A rest of fewer than four stays whole.
    """
    masks = {}
    for name, weight in weights.items():
        moved = np.moveaxis(np.abs(weight), axes[name], -1)
        mask = np.ones(moved.shape, dtype=bool)
        whole = moved.shape[-1] // GROUP * GROUP
        groups = moved[..., :whole].reshape(*moved.shape[:-1], -1, GROUP)
        order = np.argsort(-groups, axis=-1, kind="stable")
        kept = np.zeros(groups.shape, dtype=bool)
        np.put_along_axis(kept, order[..., :KEPT_OF_GROUP], True, axis=-1)
        mask[..., :whole] = kept.reshape(*moved.shape[:-1], whole)
        masks[name] = np.moveaxis(mask, -1, axes[name])
    return masks


class Pruner:
    """Thins out a learner's weights as a rule says.

    `update` is called after every step, `resume` once where a run is taken up again.
    """

    sizes: ClassVar[dict[str, int]] = {}
    """The widths that are no longer those of the beginning: none, layers stay as large."""

    def __init__(self, rule: Pruning, total_steps: int) -> None:
        assert rule.method != "structured"
        self._rule = rule
        self._total = total_steps
        self._updates = update_steps(rule, total_steps)

    def rebuilt(self, learner: Learner, sizes: Mapping[str, int]) -> Learner:
        """The same: layers stay as large as they are."""
        assert not sizes
        return learner

    def resume(self, learner: Learner, step: int) -> None:
        """Put back the masks of a run that is at `step`: what was masked is zero."""
        if any(update <= step for update in self._updates):
            weights = _prunable(learner)
            learner.set_masks({name: w != 0 for name, w in weights.items()})

    def done(self, step: int) -> bool:
        """Whether nothing more is taken out after `step` steps."""
        return step >= self._updates[-1]

    def update(self, learner: Learner, step: int) -> Learner:
        """Make the masks of `step` (steps done so far), where one is due."""
        if step not in self._updates:
            return learner
        weights = _prunable(learner)
        if self._rule.method == "2:4":
            if step == self._updates[-1]:
                axes = {name: learner.input_axis(name) for name in weights}
                learner.set_masks(two_of_four_masks(weights, axes))
            return learner
        sparsity = sparsity_at(self._rule, step, self._total)
        across = self._rule.scope == "global"
        learner.set_masks(magnitude_masks(weights, sparsity, across_layers=across))
        return learner


class Sparsity(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the prunable weights are zero."""

    zeros: int
    weights: int

    @property
    def share(self) -> float:
        """Zeros over weights."""
        return self.zeros / max(1, self.weights)


def sparsity_of(learner: Learner) -> Sparsity:
    """The zeros among a learner's prunable weights."""
    weights = _prunable(learner).values()
    return Sparsity(
        zeros=sum(int((w == 0).sum()) for w in weights), weights=sum(w.size for w in weights)
    )


def _prunable(learner: Learner) -> dict[str, np.ndarray]:
    weights = learner.weights()
    names = learner.prunable()
    if not names:
        raise InvalidInput(
            "The model has no dense or convolutional weights to prune.", param="pruning"
        )
    return {name: weights[name] for name in names}
