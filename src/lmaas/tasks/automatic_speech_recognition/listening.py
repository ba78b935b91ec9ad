"""The features of windows, made a few windows ahead of who asks for them, in a thread of its own.

Knows sounds and features, no tokens.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from lmaas.tasks.automatic_speech_recognition import features
from lmaas.tasks.automatic_speech_recognition.voice import Span
from lmaas.types import AudioSpec

AHEAD: Final = 8


class Listener:
    """Features of the windows that are `planned`, in this order, and of others when asked."""

    def __init__(self, samples: np.ndarray, spec: AudioSpec, planned: Sequence[Span]) -> None:
        self._samples = samples
        self._spec = spec
        self._planned = deque(planned)
        self._coming: dict[Span, Future[np.ndarray]] = {}
        self._pool = ThreadPoolExecutor(1, "features") if len(planned) > 1 else None
        self._look_ahead()

    def hear(self, span: Span) -> np.ndarray:
        """The features of a window, as the encoder reads them."""
        found = self._coming.pop(span, None)
        if found is None:
            return self._features(span)
        self._look_ahead()
        return found.result()

    def close(self) -> None:
        """Make no more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _look_ahead(self) -> None:
        while self._pool is not None and self._planned and len(self._coming) < AHEAD:
            span = self._planned.popleft()
            self._coming[span] = self._pool.submit(self._features, span)

    def _features(self, span: Span) -> np.ndarray:
        rate = self._spec.sample_rate
        sound = self._samples[int(span.start * rate) : int(np.ceil(span.end * rate))]
        whole = None if self._spec.most_s is None else round(self._spec.most_s * rate)
        return features.log_mel(sound[:whole], self._spec, whole)
