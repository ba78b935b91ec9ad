"""What the numbers of a CTC model stand for, and how many steps it makes of a sound."""

import math
from pathlib import Path
from typing import Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE, Record

FILE: Final = "ctc.json"
"""Lies beside the compiled model."""
MOST_BYTES: Final = 4 << 20
LEAST_STEPS: Final = 4
"""So many steps does a model make at least; shorter sounds are filled up. After a call of one step,
OpenVINO's CPU plugin gives other answers to later ones (measured: docs/log.md)."""


class Convolution(Record, frozen=True, kw_only=True, array_like=True):
    """One of the convolutions over time before a model's steps; `padding` is of each side."""

    kernel: int
    stride: int
    padding: int = 0


class Alphabet(Record, frozen=True, kw_only=True):
    """`tokens` by their number. `blank` is CTC's; `delimiter` stands between words (None: tokens
    are words or there are none); `silent` tokens say nothing, such as the end of a sentence.

    `convolutions` tell how many steps there are. With `pads`, a mask that the model takes hides
    what is filled up, which was tried on its source; without, sounds are never filled up.
    """

    tokens: tuple[str, ...]
    blank: int = 0
    delimiter: int | None = None
    silent: tuple[int, ...] = ()
    convolutions: tuple[Convolution, ...] = ()
    pads: bool = False

    def steps(self, size: int) -> int:
        """How many steps the model makes of `size` samples or frames."""
        for each in self.convolutions:
            size = (size + 2 * each.padding - each.kernel) // each.stride + 1
        return max(0, size)

    @property
    def least(self) -> int:
        """How many samples or frames make LEAST_STEPS steps."""
        size = LEAST_STEPS
        for each in reversed(self.convolutions):
            size = (size - 1) * each.stride + each.kernel - 2 * each.padding
        return size

    @property
    def stride(self) -> int:
        """How many samples or frames lie between two steps."""
        return math.prod(each.stride for each in self.convolutions)

    def save(self, folder: Path) -> None:
        """Write it beside a model."""
        (folder / FILE).write_bytes(msgspec.json.encode(self))


def read(folder: Path) -> Alphabet:
    """The alphabet beside a model. Raises InvalidInput where there is none that can be read."""
    path = folder / FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"{FILE} has more than {MOST_BYTES} bytes.")
        found = msgspec.json.decode(path.read_bytes(), type=Alphabet)
    except (OSError, *UNREADABLE) as error:
        raise InvalidInput(f"{FILE} is missing or damaged: {error}.") from None
    numbers = (found.blank, *found.silent, *(() if found.delimiter is None else (found.delimiter,)))
    bad = any(not 0 <= number < len(found.tokens) for number in numbers)
    if bad or any(c.kernel < 1 or c.stride < 1 or c.padding < 0 for c in found.convolutions):
        raise InvalidInput(f"{FILE} contradicts itself.")
    return found
