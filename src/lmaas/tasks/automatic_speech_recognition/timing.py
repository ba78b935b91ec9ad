"""When each word is spoken, from where the decoder looked while it wrote.

Method: Radford et al. 2022 and its reference implementation (cross attention of the heads that
follow the sound, a median filter, dynamic time warping). Knows no tokenizer and no engine.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WordTokens
from lmaas.transcription_types import Word

FRAME_S: Final = 0.02
"""What a place of the encoder's output stands for."""
MEDIAN_WIDTH: Final = 7
LONGEST_USUAL_S: Final = 0.7
SENTENCE_ENDS: Final = frozenset(".。!！?？")


def token_times(attention: np.ndarray, frames: int) -> np.ndarray:
    """When each token begins, in seconds: (tokens,) from (heads, tokens, places) weights.

    Row i is where the heads looked when token i was chosen. Only the first `frames` places are
    sound.
    """
    weights = np.asarray(attention[:, :, : max(1, frames)], np.float32)
    weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)
    mean, deviation = weights.mean(axis=1, keepdims=True), weights.std(axis=1, keepdims=True)
    weights = (weights - mean) / np.maximum(deviation, 1e-9)
    matrix = _median(weights).mean(axis=0)
    rows, places = warp(-matrix)
    first = np.concatenate(([True], np.diff(rows) > 0))
    return places[first].astype(np.float64) * FRAME_S


def words_of(
    words: Sequence[WordTokens], times: np.ndarray, probabilities: Sequence[float]
) -> list[Word]:
    """Each word with its times. `times` has one more entry than there are tokens: the end."""
    bounds = np.concatenate(([0], np.cumsum([word.tokens for word in words]))).astype(int)
    starts, ends = times[bounds[:-1]], times[bounds[1:]]
    lengths = ends - starts
    usual = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 0.0
    most = 2 * min(usual, LONGEST_USUAL_S)
    found = []
    for place, word in enumerate(words):
        start, end = float(starts[place]), float(ends[place])
        if most and end - start > most:
            # The pause at the end or the beginning of a sentence is no part of the word.
            if set(word.text.strip()[-1:]) & SENTENCE_ENDS:
                end = start + most
            elif not place or set(words[place - 1].text.strip()[-1:]) & SENTENCE_ENDS:
                start = end - most
        chances = probabilities[bounds[place] : bounds[place + 1]]
        found.append(
            Word(
                word=word.text,
                start=start,
                end=end,
                probability=float(np.mean(chances)) if len(chances) else None,
            )
        )
    return found


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest path through `cost` (tokens, places) from corner to corner, as two lists.

    A step goes one token on, one place on, or both. The sums are made diagonal by diagonal.
    """
    rows, columns = cost.shape
    flat = np.ascontiguousarray(cost, np.float32).reshape(-1)
    trace = np.zeros((rows + 1, columns + 1), np.int8)
    traced = trace.reshape(-1)
    before, last = np.full(rows + 1, np.inf, np.float32), np.full(rows + 1, np.inf, np.float32)
    before[0] = 0
    for diagonal in range(2, rows + columns + 1):
        # Cells (i, j) with i + j = diagonal, i from least to most; in memory a constant step apart.
        least, most = max(1, diagonal - columns), min(rows, diagonal - 1)
        both, token, place = (
            before[least - 1 : most],
            last[least - 1 : most],
            last[least : most + 1],
        )
        cheapest = np.minimum(np.minimum(both, token), place)
        # Of equal ones a place on, as the reference has it.
        step = np.where(both < np.minimum(token, place), 0, 2)
        step[token < np.minimum(both, place)] = 1
        at = (least - 1) * columns + diagonal - least - 1
        apart = columns - 1 or 1
        count = most - least + 1
        now = np.full(rows + 1, np.inf, np.float32)
        now[least : most + 1] = cheapest + flat[at : at + (count - 1) * apart + 1 : apart]
        at = least * (columns + 1) + diagonal - least
        traced[at : at + (count - 1) * columns + 1 : columns] = step
        before, last = last, now
    trace[0, :], trace[:, 0] = 2, 1
    path = []
    i, j = rows, columns
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = trace[i, j]
        i, j = i - (step != 2), j - (step != 1)
    found = np.array(path[::-1])
    return found[:, 0], found[:, 1]


def _median(weights: np.ndarray) -> np.ndarray:
    """The median of each place and its neighbours, along the last axis."""
    half = MEDIAN_WIDTH // 2
    if weights.shape[-1] <= half:
        return weights
    padded = np.pad(weights, ((0, 0), (0, 0), (half, half)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=-1)
    return np.partition(windows, half, axis=-1)[..., half]
