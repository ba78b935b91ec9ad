"""Structured pruning while training: units and channels are taken out, and layers get smaller.

Units are ranked by the L1 norm of the weights that make them (Li et al., "Pruning filters for
efficient ConvNets", 2017). Which axes of which arrays a width is behind is found by building the
network once with other widths and comparing shapes: nothing here knows a framework, or what a
network looks like. All is arrays in, arrays out, matched by their order in `Learner.weights`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Pruning
from lmaas.training.base import Learner, Problem, Resizable, Width
from lmaas.training.pruning import sparsity_at, update_steps

Shape = tuple[int, ...]
Axes = dict[int, str]
"""An array's axes that grow with a width, and that width's name."""
REFUSED: Final = "pruning.method"


def other_sizes(widths: Mapping[str, Width]) -> dict[str, int]:
    """A size for each width that is neither its own nor another's, so that it tells whose it is."""
    sizes: dict[str, int] = {}
    for name, width in widths.items():
        size = width.parts
        while size == width.size or size in sizes.values():
            size += width.parts
        sizes[name] = size
    return sizes


def axes_of(
    shapes: Sequence[Shape], others: Sequence[Shape], widths: Mapping[str, Width]
) -> list[Axes]:
    """For each array the axes that a width is behind, from the shapes in two sizes.

    `others` are the shapes that the arrays have with `other_sizes(widths)`.
    """
    names = {size: name for name, size in other_sizes(widths).items()}
    found: list[Axes] = []
    for shape, other in zip(shapes, others, strict=True):
        axes: Axes = {}
        for axis, (mine, its) in enumerate(zip(shape, other, strict=True)):
            if mine != its:
                assert its in names, (shape, other)
                assert widths[names[its]].size == mine, (shape, other)
                axes[axis] = names[its]
        found.append(axes)
    return found


def unit_norms(made_by: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """The sum of |w| over all that makes each unit: arrays, and the axis along which units lie."""
    (first, at), *_ = made_by
    norms = np.zeros(first.shape[at])
    for weight, axis in made_by:
        norms += np.abs(weight).sum(axis=tuple(i for i in range(weight.ndim) if i != axis))
    return norms


def kept_units(
    norms: Mapping[str, np.ndarray],
    widths: Mapping[str, Width],
    begun: Mapping[str, int],
    sparsity: float,
    *,
    across_layers: bool,
) -> dict[str, np.ndarray]:
    """The units of each width that stay, in order, when `sparsity` of those of `begun` are gone.

    From each part of a width goes the same number, so that what is normalised together stays so;
    one of each part always stays, and no more go than are asked for. `across_layers`: the smallest
    of all go, each layer's norms over their own L2 norm (Molchanov et al., "Pruning convolutional
    neural networks for resource efficient inference", 2017); else the same share of each layer.
    """
    order: dict[str, np.ndarray] = {}
    rows: list[tuple[float, str]] = []
    for name, width in widths.items():
        parts = norms[name].reshape(width.parts, -1)
        order[name] = np.argsort(parts, axis=1, kind="stable")
        ranked = np.take_along_axis(parts, order[name], axis=1).mean(axis=0)
        ranked /= max(float(np.linalg.norm(norms[name])), np.finfo(np.float64).tiny)
        rows += [(value, name) for value in ranked[:-1].tolist()]
    out = dict.fromkeys(widths, 0)
    if across_layers:
        free = round(sparsity * sum(begun.values())) - sum(begun.values())
        free += sum(width.size for width in widths.values())
        for _, name in sorted(rows, key=lambda row: row[0]):
            if widths[name].parts <= free:
                free -= widths[name].parts
                out[name] += 1
    else:
        for name, width in widths.items():
            most = width.size // width.parts - 1
            free = round(sparsity * begun[name]) - (begun[name] - width.size)
            out[name] = max(0, min(most, free // width.parts))
    return {
        name: np.sort(
            order[name][:, out[name] :]
            + np.arange(width.parts)[:, None] * (width.size // width.parts),
            axis=None,
        )
        for name, width in widths.items()
    }


def sliced(array: np.ndarray, axes: Axes, kept: Mapping[str, np.ndarray]) -> np.ndarray:
    """What of an array the smaller network has."""
    for axis, name in axes.items():
        array = np.take(array, kept[name], axis=axis)
    return np.ascontiguousarray(array)


class Shrinker:
    """Makes a learner's network smaller as a rule says.

    The smaller network is built anew, filled with the weights that stay, and trained by a learner
    of its own: its optimizer begins anew. `make` gives a learner of what the problem builds.
    """

    def __init__(
        self, rule: Pruning, total_steps: int, problem: Problem, make: Callable[[], Learner]
    ) -> None:
        self._rule, self._total, self._make = rule, total_steps, make
        self._updates = update_steps(rule, total_steps)
        self._axes: list[Axes] | None = None
        if not isinstance(problem, Resizable) or not problem.widths():
            raise InvalidInput(
                "Structured pruning makes the hidden layers of a network smaller; what is trained "
                "here has none that can be.",
                hint='Take the method "magnitude" or "2:4", or an architecture with hidden layers.',
                param=REFUSED,
            )
        self._problem = problem
        self._begun = {name: width.size for name, width in problem.widths().items()}
        ones = {n: np.ones(size) for n, size in self._begun.items()}
        if all(len(kept) == self._begun[name] for name, kept in self._kept(ones, 1.0).items()):
            sizes = ", ".join(f"{n} {w.size}" for n, w in problem.widths().items())
            raise InvalidInput(
                f"A sparsity of {rule.sparsity} takes nothing out of layers so small ({sizes}).",
                hint="Raise pruning.sparsity, or take a wider network.",
                param="pruning.sparsity",
            )

    @property
    def sizes(self) -> dict[str, int]:
        """The widths of the network as it is, where it is no longer what it was."""
        now = {name: width.size for name, width in self._problem.widths().items()}
        return now if now != self._begun else {}

    def rebuilt(self, learner: Learner, sizes: Mapping[str, int]) -> Learner:
        """A learner of a network with these widths, where a run is taken up again."""
        if not sizes:
            return learner
        self._problem.resize(sizes)
        return self._make()

    def resume(self, learner: Learner, step: int) -> None:
        """Nothing: what was taken out is not there."""

    def done(self, step: int) -> bool:
        """Whether nothing more is taken out after `step` steps."""
        return step >= self._updates[-1]

    def update(self, learner: Learner, step: int) -> Learner:
        """Take out what is due after `step` steps; the learner that goes on."""
        if step not in self._updates:
            return learner
        names, arrays = zip(*learner.weights().items(), strict=True)
        if self._axes is None:
            self._axes = self._looked_up([array.shape for array in arrays])
        widths, prunable = self._problem.widths(), set(learner.prunable())
        made_by: dict[str, list[tuple[np.ndarray, int]]] = {name: [] for name in widths}
        for name, array, axes in zip(names, arrays, self._axes, strict=True):
            for axis, width in axes.items():
                if name in prunable and axis != learner.input_axis(name):
                    made_by[width].append((array, axis))
        norms = {width: unit_norms(made) for width, made in made_by.items()}
        kept = self._kept(norms, sparsity_at(self._rule, step, self._total) / self._rule.sparsity)
        sizes = {name: len(units) for name, units in kept.items()}
        if all(sizes[name] == width.size for name, width in widths.items()):
            return learner
        self._problem.resize(sizes)
        smaller = self._make()
        left = [sliced(a, axes, kept) for a, axes in zip(arrays, self._axes, strict=True)]
        smaller.set_weights(dict(zip(smaller.weights(), left, strict=True)))
        return smaller

    def _kept(self, norms: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
        """What stays where this share of all that is to go is gone."""
        return kept_units(
            norms,
            self._problem.widths(),
            self._begun,
            share * self._rule.sparsity,
            across_layers=self._rule.scope == "global",
        )

    def _looked_up(self, shapes: Sequence[Shape]) -> list[Axes]:
        widths = self._problem.widths()
        self._problem.resize(other_sizes(widths))
        others = [array.shape for array in self._make().weights().values()]
        self._problem.resize({name: width.size for name, width in widths.items()})
        return axes_of(shapes, others, widths)
