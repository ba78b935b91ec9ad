"""A long sound in windows that a model reads at once, cut where nobody speaks.

Knows spans of speech and loudness, neither models nor features.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from lmaas.tasks.automatic_speech_recognition.voice import FRAME_S, Span

SMOOTH_FRAMES: Final = 7
"""A quiet place is a quarter of a second, not a single frame."""
CUT_AFTER: Final = 2 / 3
"""Speech without a pause is cut in the last third of what a window holds."""


def cut(spoken: Sequence[Span], loud: np.ndarray, most_s: float) -> list[Span]:
    """Windows of at most `most_s` that hold all speech, each as many pauses as fit.

    A window begins and ends with a span of speech. A span that is too long is cut at the softest
    place; `loud` is the loudness of each frame.
    """
    found: list[Span] = []
    for span in (part for whole in spoken for part in _parts(whole, loud, most_s)):
        if found and span.end - found[-1].start <= most_s:
            found[-1] = Span(found[-1].start, span.end)
        else:
            found.append(span)
    return found


def spoken_s(spoken: Sequence[Span], within: Span) -> float:
    """For how long somebody speaks in a stretch, in seconds."""
    return sum(
        max(0.0, min(span.end, within.end) - max(span.start, within.start)) for span in spoken
    )


def _parts(span: Span, loud: np.ndarray, most_s: float) -> list[Span]:
    found = []
    start = span.start
    while span.end - start > most_s:
        least = int((start + most_s * CUT_AFTER) / FRAME_S)
        most = max(least + 1, int((start + most_s) / FRAME_S))
        softest = _smooth(loud[least:most])
        place = (least + int(np.argmin(softest)) + 0.5) * FRAME_S if len(softest) else 0.0
        end = min(max(place, start + most_s * CUT_AFTER), start + most_s)
        found.append(Span(start, end))
        start = end
    return [*found, Span(start, span.end)]


def _smooth(loud: np.ndarray) -> np.ndarray:
    if not len(loud):
        return loud
    padded = np.pad(loud, SMOOTH_FRAMES // 2, mode="edge")
    return np.convolve(padded, np.ones(SMOOTH_FRAMES) / SMOOTH_FRAMES, mode="valid")
