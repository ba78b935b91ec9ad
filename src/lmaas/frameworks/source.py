"""A source model as something to be asked: how long it takes, whether it fails, is it random?

Knows no framework: it is given a function that runs the model, and one that sets all seeds.
"""

import time
import warnings
from collections.abc import Callable
from typing import Final

import numpy as np

from lmaas.errors import ParityFailed
from lmaas.frameworks.base import run_source
from lmaas.tasks import Tensors

BUDGET_S: Final = 45.0
"""How long a source is asked in all, beside the sample itself."""
SEED: Final = 20_240_229
SAME: Final = 1e-4
"""Outputs of one model for the same rows may differ by so much of their largest, by rounding."""


class Source:
    """A model under questions. `run` raises for inputs that the model does not take."""

    def __init__(self, run: Callable[[Tensors], Tensors], seed: Callable[[], None]) -> None:
        self._run = _quietly(run)
        self._seed = seed
        self._spent_s = 0.0
        self.took_s = 0.0
        self.random: frozenset[str] = frozenset()

    @property
    def tired(self) -> bool:
        """Whether the time for questions is over."""
        return self._spent_s + self.took_s > BUDGET_S

    def first(self, arrays: Tensors) -> Tensors:
        """The outputs for the sample; finds out which of them are drawn at random.

        Raises InvalidInput where the model does not run on it, ParityFailed where its answers
        depend on what it was asked before.
        """
        first = run_source(lambda _, given: self._run(given), None, arrays)
        start = time.perf_counter()
        second = self._run(arrays)
        self.took_s = time.perf_counter() - start
        differ = frozenset(name for name in first if not same(first[name], second.get(name)))
        if differ:
            self._seed()
            first = self._run(arrays)
            self._seed()
            second = self._run(arrays)
            if any(not same(first[name], second.get(name)) for name in first):
                raise ParityFailed(
                    f"The model answers the same input differently each time ({_list(differ)}), "
                    "and not by its framework's random numbers. Nothing was published.",
                    hint="A model that keeps a state between calls would mix its callers: make the "
                    "state an input and an output (Keras: stateful=False).",
                )
        self.random = differ
        return first

    def ask(self, arrays: Tensors) -> Tensors | None:
        """The outputs for other inputs; None where the model fails on them."""
        start = time.perf_counter()
        try:
            if self.random:
                self._seed()
            return self._run(arrays)
        except Exception:  # noqa: BLE001 - whatever it raises means: not on these
            return None
        finally:
            self._spent_s += time.perf_counter() - start


def _quietly(run: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """`run` without its warnings: a model that is asked a hundred times gives each as often."""

    def quiet(arrays: Tensors) -> Tensors:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(arrays)

    return quiet


def same(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Whether two outputs are the same but for rounding; texts and whole numbers exactly."""
    if b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    left, right = a[finite].astype(wide), b[finite].astype(wide)
    scale = float(np.abs(left).max(initial=0.0))
    loose = {2: 1e-2}.get(a.dtype.itemsize, SAME)
    return bool(np.abs(left - right).max(initial=0.0) <= loose * scale + 1e-6)


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
