"""Training samples changed at random, on arrays: the same for every framework.

What is drawn depends on the seed, the epoch and the sample's index alone (`generator`), so a
resumed run, another number of workers and another framework see the same samples.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Transform

T = TypeVar("T")


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, (epoch << 40) | index]))


def options_of(transform: Transform, known: dict[str, type[T]]) -> T:
    """The transform as an object of its kind. Raises InvalidInput for what is unknown or bad."""
    kind = known.get(transform.name)
    if kind is None:
        raise InvalidInput(
            f"Unknown augmentation {transform.name!r}; known here: {', '.join(sorted(known))}.",
            param="augmentation",
        )
    try:
        return msgspec.convert(transform.options, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"The augmentation {transform.name}: {error}.", param="augmentation"
        ) from None


def chosen(steps: Sequence[tuple[float, Any]], random: np.random.Generator) -> list[Any]:
    """Those steps of (probability, transform) whose turn it is, in order."""
    return [step for p, step in steps if p >= 1 or random.random() < p]
