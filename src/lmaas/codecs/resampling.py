"""Sound from one sample rate to another, block by block, with a low-pass against aliasing.

A windowed sinc in phases (J. O. Smith, "Digital Audio Resampling"; Kaiser's window): what lies
above the lower of the two rates' halves is damped by 90 dB before samples are left out. Each run of
outputs that repeats is one matrix product, so a block costs a product and no loop.
"""

import functools
from fractions import Fraction
from typing import Final

import numpy as np

ZERO_CROSSINGS: Final = 64
"""Of the sinc, on each side: the pass band reaches 91 % of half the lower rate."""
BETA: Final = 9.0
"""Of Kaiser's window: 90 dB."""
CUTOFF: Final = 0.955
"""Where the filter halves the amplitude, as a share of half the lower rate."""
MOST_PHASES: Final = 1000
"""Ratios with more are taken as the nearest one with as many: at most 1e-4 beside the true one."""
LEAST_OUTPUTS: Final = 128
"""Of one row of the matrix product, so that it is one that computers are fast at."""


class Resampler:
    """Turns mono float32 blocks at `source_rate` into blocks at `target_rate` (Hz).

    The output has no delay and, once `end` was called, `ceil(samples * target / source)` samples.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        ratio = Fraction(target_rate, source_rate).limit_denominator(MOST_PHASES)
        if ratio.numerator > MOST_PHASES or not ratio:
            ratio = 1 / Fraction(source_rate, target_rate).limit_denominator(MOST_PHASES)
        self._ratio = ratio
        self._samples = 0
        self._given = 0
        if ratio == 1:
            return
        times = -(-LEAST_OUTPUTS // ratio.numerator)
        self._outputs, self._step = ratio.numerator * times, ratio.denominator * times
        half = int(np.ceil(ZERO_CROSSINGS / min(1.0, float(ratio))))
        self._weights = _weights(ratio, self._outputs, self._step, half)
        self._half = half
        self._waiting = np.zeros(half, np.float32)

    def feed(self, block: np.ndarray) -> np.ndarray:
        """The samples that can be told once `block` (samples,) is known; maybe none."""
        self._samples += len(block)
        if self._ratio == 1:
            return block
        self._waiting = np.concatenate([self._waiting, block])
        made = self._run()
        self._given += len(made)
        return made

    def end(self) -> np.ndarray:
        """The samples that are left."""
        if self._ratio == 1:
            return np.zeros(0, np.float32)
        wanted = -(-self._samples * self._ratio.numerator // self._ratio.denominator)
        silence = np.zeros(self._half + self._step, np.float32)
        self._waiting = np.concatenate([self._waiting, silence])
        left = wanted - self._given
        rest = self._run()[:left]
        self._given += len(rest)
        return rest

    def _run(self) -> np.ndarray:
        width = len(self._weights)
        rows = max(0, (len(self._waiting) - width) // self._step + 1)
        if not rows:
            return np.zeros(0, np.float32)
        views = np.lib.stride_tricks.sliding_window_view(self._waiting, width)[:: self._step]
        made: np.ndarray = (np.ascontiguousarray(views[:rows]) @ self._weights).reshape(-1)
        self._waiting = self._waiting[rows * self._step :].copy()
        return made


@functools.lru_cache(maxsize=16)
def _weights(ratio: Fraction, outputs: int, step: int, half: int) -> np.ndarray:
    """(inputs, outputs): what each of `outputs` samples takes of the inputs around it."""
    cutoff = CUTOFF * min(1.0, float(ratio))
    at = np.arange(outputs) / float(ratio)
    distance = np.arange(step + 2 * half)[:, None] - half - at[None, :]
    window = np.zeros(distance.shape)
    inside = np.abs(distance) < half
    window[inside] = np.i0(BETA * np.sqrt(1 - (distance[inside] / half) ** 2))
    weights = np.sinc(cutoff * distance) * window
    scaled: np.ndarray = (weights / weights.sum(axis=0)).astype(np.float32)
    return scaled
