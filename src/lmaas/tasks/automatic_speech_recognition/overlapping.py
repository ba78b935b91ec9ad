"""A sound in windows that a CTC model reads, and their outputs as those of the whole sound.

Neighbouring windows overlap; of each half of the overlap counts the window that lies deeper in it,
as in transformers' chunked pipeline (`chunk_length_s` with `stride_length_s` of a sixth). All
windows of a long sound have one length, and begin where a step of the model does.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

WINDOW_S: Final = 24.0
OVERLAP_S: Final = 8.0


class Window(NamedTuple):
    """Samples from `start` on; `last` says that the sound ends in it."""

    start: int
    samples: np.ndarray
    last: bool


def windows(blocks: Iterable[np.ndarray], window: int, overlap: int, grid: int) -> Iterator[Window]:
    """The windows of a sound that comes in blocks; `window` is a multiple of `grid`.

    A sound of at most `window` samples is one. Else all but the last have `window` samples, and the
    last has them but for less than `grid`.
    """
    stride = (window - overlap) // grid * grid
    held, begin, following = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        held = np.concatenate([held, block])
        while begin + len(held) > following + window:
            at = following - begin
            yield Window(following, held[at : at + window].copy(), last=False)
            following += stride
        # The last window may begin before the next one would.
        drop = min(following, begin + len(held) - window) - begin
        if drop > 0:
            held, begin = held[drop:], begin + drop
    total = begin + len(held)
    first = 0 if following == 0 else -(-(total - window) // grid) * grid
    yield Window(first, held[first - begin :], last=True)


def stitched(outputs: Sequence[np.ndarray], begins: Sequence[int], total: int) -> np.ndarray:
    """The outputs (T, V) of windows that begin at the steps `begins`, as one (total, V).

    Where windows overlap, the middle is where one ends to count and the next one begins.
    """
    if len(outputs) == 1:
        return outputs[0][:total]
    whole = np.empty((total, outputs[0].shape[1]), np.float32)
    for index, (output, begin) in enumerate(zip(outputs, begins, strict=True)):
        first, after = begin, min(begin + len(output), total)
        if index:
            first = (begin + begins[index - 1] + len(outputs[index - 1])) // 2
        if index + 1 < len(begins):
            after = (begins[index + 1] + begin + len(output)) // 2
        whole[first:after] = output[first - begin : after - begin]
    return whole
