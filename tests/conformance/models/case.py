"""A model as somebody writes it, with inputs that are not its sample."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Inputs = tuple[Any, ...]
"""What the model is called with, in the order of its inputs."""


class Case(NamedTuple):
    """One model of the sweep.

    `sample` and each of `fresh` are called on the model as they are. `options` go to
    `lmaas.publish`. `refused` is a pattern of the error with which the model must be refused; None:
    it must be served, and right. `names` are the inputs' names where the sample is a mapping.
    """

    name: str
    make: Callable[[], Any]
    sample: Inputs
    fresh: tuple[Inputs, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    refused: str | None = None
    small: bool = False


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal numbers."""
    drawn = np.random.default_rng(seed).standard_normal(shape) * scale
    return drawn.astype(np.float32)


def wholes(least: int, most: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Whole numbers of 64 bits."""
    return np.random.default_rng(seed).integers(least, most, shape, endpoint=True)


def rows(*shape: int) -> tuple[Inputs, ...]:
    """Fresh inputs of one array: other values, batch sizes and magnitudes than a sample's."""
    return (
        (floats(1, *shape, seed=11),),
        (floats(7, *shape, seed=12, scale=30.0),),
        (-np.abs(floats(3, *shape, seed=13)),),
        (np.zeros((2, *shape), np.float32),),
    )
