"""A small dense net trained in numpy: for tables its products are too small to pay for a framework.

A step over 100 rows takes a third of what it takes in PyTorch (docs/log.md), and nothing has to be
loaded. All weights lie in one array, so that the optimizer is a few operations.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from lmaas.tasks.base import softmax

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
DECAY: Final = 0.02


class Net:
    """Layers of `widths` with ReLU between them, weights drawn from `seed`.

    Uniform within 1 / sqrt(inputs), as PyTorch draws them. Trained by AdamW (Loshchilov and Hutter,
    2019) on cross-entropy, or on the squared error where `classes` is 0.
    """

    def __init__(self, widths: Sequence[int], classes: int, seed: int) -> None:
        self._classes = classes
        pairs = list(itertools.pairwise(widths))
        random = np.random.default_rng([seed, 0xDE])
        drawn = []
        for inputs, outputs in pairs:
            most = 1 / np.sqrt(inputs)
            drawn.append(random.uniform(-most, most, (inputs + 1) * outputs))
        self._flat = np.concatenate(drawn).astype(np.float32)
        self._slope, self._first, self._second, self._scratch = (
            np.zeros_like(self._flat) for _ in range(4)
        )
        self._layers, self._slopes = (_views(flat, pairs) for flat in (self._flat, self._slope))
        self._steps = 0

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Copies of each matrix (inputs, outputs) and what is added."""
        return [(matrix.copy(), bias.copy()) for matrix, bias in self._layers]

    def step(self, rows: np.ndarray, targets: np.ndarray, rate: float) -> None:
        """One update from rows (N, inputs) float32 and their class numbers or values (N,)."""
        hidden = [rows]
        for number, (matrix, bias) in enumerate(self._layers):
            told = hidden[-1] @ matrix
            told += bias
            if number + 1 < len(self._layers):
                np.maximum(told, 0, out=told)
            hidden.append(told)
        back = self._wrong(hidden.pop(), targets)
        for number in reversed(range(len(self._layers))):
            matrix_slope, bias_slope = self._slopes[number]
            np.matmul(hidden[number].T, back, out=matrix_slope)
            np.sum(back, axis=0, out=bias_slope)
            if number:
                back = back @ self._layers[number][0].T
                back *= hidden[number] > 0
        self._update(rate)

    def _wrong(self, told: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """How the mean loss changes with each output."""
        if self._classes:
            back = softmax(told)
            back[np.arange(len(told)), targets] -= 1
        else:
            back = 2 * (told - targets[:, None].astype(np.float32))
        back /= len(told)
        return np.asarray(back, np.float32)

    def _update(self, rate: float) -> None:
        self._steps += 1
        slope, scratch = self._slope, self._scratch
        self._first *= BETA1
        np.multiply(slope, 1 - BETA1, out=scratch)
        self._first += scratch
        self._second *= BETA2
        np.multiply(slope, slope, out=scratch)
        scratch *= 1 - BETA2
        self._second += scratch
        np.sqrt(self._second, out=scratch)
        scratch *= 1 / np.sqrt(1 - BETA2**self._steps)
        scratch += EPSILON
        np.divide(self._first, scratch, out=scratch)
        scratch *= rate / (1 - BETA1**self._steps)
        self._flat *= 1 - rate * DECAY
        self._flat -= scratch


def _views(flat: np.ndarray, pairs: Sequence[tuple[int, int]]) -> list[tuple[Any, Any]]:
    """Each layer's matrix and bias, in the one array."""
    found, at = [], 0
    for inputs, outputs in pairs:
        middle = at + inputs * outputs
        found.append((flat[at:middle].reshape(inputs, outputs), flat[middle : middle + outputs]))
        at = middle + outputs
    return found
