"""Speech at another speed and the same pitch.

WSOLA (Verhelst and Roelands 1993): windows are laid closer together or further apart, each taken
from where it continues the one before best, so that waves go on without a break.
"""

from typing import Final

import numpy as np

WINDOW_S: Final = 0.03
SEARCH_S: Final = 0.01
"""So far around its place a window is looked for: a period of 100 Hz."""


def stretch(sound: np.ndarray, speed: float, rate: int) -> np.ndarray:
    """(T,) float32 samples, `speed` times as fast: about T / `speed` of them."""
    half = int(rate * WINDOW_S / 2)
    window, reach = 2 * half, int(rate * SEARCH_S)
    if speed == 1.0 or sound.size <= 2 * window:
        return sound
    count = max(1, int((sound.size / speed - window) / half) + 1)
    hann = np.hanning(window + 1)[:window].astype(np.float32)
    padded = np.concatenate((sound, np.zeros(window + 2 * reach + half, np.float32)))
    out = np.zeros(half * (count - 1) + window, np.float32)
    at = 0
    for index in range(count):
        wanted = min(round(index * half * speed), sound.size - 1)
        if index:
            at = _best(padded, at + half, wanted, reach, window)
        piece = padded[at : at + window] * hann
        if not index:
            piece[:half] = padded[:half]  # nothing comes before it
        out[index * half : index * half + window] += piece
    return out


def _best(sound: np.ndarray, goes_on: int, wanted: int, reach: int, window: int) -> int:
    """Where near `wanted` the sound is most like what follows at `goes_on`."""
    first = max(0, wanted - reach)
    model = sound[goes_on : goes_on + window]
    there = sound[first : first + 2 * reach + window]
    size = min(model.size, window)
    if size == 0 or there.size <= size:
        return min(wanted, max(0, sound.size - window))
    likeness = np.correlate(there, model[:size], "valid")
    energy = np.convolve(there * there, np.ones(size, np.float32), "valid")
    return first + int(np.argmax(likeness / np.sqrt(np.maximum(energy, 1e-8))))
