"""Requests of different lengths in one batch, for models whose masks were proven to hide padding.

That filling up changes no answer was tried on the source when the model was published. Only lengths
of one magnitude join, so that a short request never pays for a long one.
"""

from collections.abc import Sequence

import numpy as np

from lmaas.tasks.base import Tensors
from lmaas.types import Signature

Key = tuple[tuple[str, str, tuple[int, ...]], ...]


class Padding:
    """How a model's inputs are filled up along its one axis, and its outputs cut again."""

    def __init__(self, signature: Signature) -> None:
        self._fills = {
            spec.name: (spec.axes.index(signature.pad_axis), signature.pads[spec.name])
            for spec in signature.inputs
            if signature.pad_axis in spec.axes
        }
        self._cuts = {
            spec.name: spec.axes.index(signature.pad_axis)
            for spec in signature.outputs
            if signature.pad_axis in spec.axes
        }

    @classmethod
    def of(cls, signature: Signature) -> "Padding | None":
        """The padding of a model; None where it has none that was proven."""
        return cls(signature) if signature.pad_axis else None

    def key(self, arrays: Tensors) -> Key:
        """What requests must have in common to join: lengths as far as their magnitude."""
        found = []
        for name, array in arrays.items():
            shape = list(array.shape[1:])
            if name in self._fills:
                shape[self._fills[name][0] - 1] = int(shape[self._fills[name][0] - 1]).bit_length()
            found.append((name, array.dtype.str, tuple(shape)))
        return tuple(found)

    def length(self, arrays: Tensors) -> int:
        """A request's size of the axis."""
        name, (axis, _) = next(iter(self._fills.items()))
        return int(arrays[name].shape[axis])

    def fill(self, arrays: Tensors, length: int) -> Tensors:
        """A request's arrays with so many elements along the axis."""
        filled = dict(arrays)
        for name, (axis, value) in self._fills.items():
            array = arrays[name]
            widths = [(0, 0)] * array.ndim
            widths[axis] = (0, length - array.shape[axis])
            filled[name] = np.pad(array, widths, constant_values=value)
        return filled

    def join(self, requests: Sequence[Tensors]) -> Tensors:
        """The rows of all requests, filled up to the longest."""
        lengths = [self.length(arrays) for arrays in requests]
        longest = max(lengths)
        even = [
            arrays if length == longest else self.fill(arrays, longest)
            for arrays, length in zip(requests, lengths, strict=True)
        ]
        return {name: np.concatenate([arrays[name] for arrays in even]) for name in requests[0]}

    def cut(self, outputs: Tensors, length: int) -> Tensors:
        """A request's own rows without what the filling brought."""
        return {
            name: np.take(array, np.arange(length), self._cuts[name])
            if name in self._cuts and array.shape[self._cuts[name]] > length
            else array
            for name, array in outputs.items()
        }
