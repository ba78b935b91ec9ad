"""Log probabilities that OpenVINO's pipeline does not tell: of prompts, and of the best tokens.

The compiled model is read once more, when this is first asked for, and fed again what the pipeline
was fed, in pieces. One text at a time has its state, so that the memory is bounded.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from lmaas.errors import DoesNotFit, LMaaSError
from lmaas.runtime.language.embedded import Rows
from lmaas.runtime.language.engine import Scores, TokenScore
from lmaas.runtime.language.pictures import Picture
from lmaas.runtime.language.stateful import Stateful, weights_of

PIECE_BYTES: Final = 64 << 20
"""Of logits, at most, in one piece."""
MOST_TOKENS: Final = 256
WAIT_S: Final = 0.01
COPIES: Final = 4
"""Of keys and values in f32, which are twice as large, and made anew when they grow."""
MEMORY_PER_WEIGHTS: Final = 2.2
"""What a compiled model takes, in the sizes of its file."""


class Text:
    """A text that is scored as it grows: its tokens from the place `first` on.

    `pictures` are those whose placeholders the prompt has.
    """

    def __init__(
        self, prompt: Sequence[int], top: int, *, first: int, pictures: Sequence[Picture] = ()
    ) -> None:
        self.pictures = pictures
        self.tokens = list(prompt)
        self.top = top
        self.fed = 0
        self.scores: list[TokenScore] = []
        self._first = first

    def piece(self, most: int) -> list[int]:
        """What is fed next. The last token is not: nothing is asked about what follows it."""
        return self.tokens[self.fed : min(self.fed + most, len(self.tokens) - 1)]

    def take(self, logits: np.ndarray) -> None:
        """Logits (T, V) for the token after each of the last piece."""
        start = self.fed + 1
        self.fed += len(logits)
        rows = max(0, self._first - start)
        if rows < len(logits):
            told = self.tokens[start + rows : start + len(logits)]
            self.scores += scores_of(logits[rows:], told, self.top)


class Scorer:
    """Scores texts with the compiled model in `folder`, one after the other. One thread calls it.

    `kv_bytes` is the size of one token's keys and values at 2 bytes an element; `idle` says whether
    nothing else is to be done, so that waiting for the model holds nobody up. A model that takes
    images is fed rows of its `table`.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary_size: int,
        kv_bytes: int,
        idle: Callable[[], bool],
        table: Rows | None = None,
    ) -> None:
        self._table = table
        self._folder = folder
        self._piece = max(1, min(MOST_TOKENS, PIECE_BYTES // (4 * vocabulary_size)))
        self._kv_bytes = kv_bytes
        self._idle = idle
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._model: Future[Stateful] | None = None
        self._texts: list[Text] = []

    def add(self, text: Text, longest: int) -> None:
        """Score this text in its turn; it will have at most `longest` tokens. Raises DoesNotFit."""
        needed = COPIES * self._kv_bytes * longest
        if self._model is None:
            weights = weights_of(self._folder).stat().st_size
            needed += int(MEMORY_PER_WEIGHTS * weights) + PIECE_BYTES
        _check_room(needed)
        self._texts.append(text)

    def remove(self, text: Text) -> None:
        """It is not wanted any more. Nothing happens the second time."""
        if text not in self._texts:
            return
        if self._texts[0] is text and self._model is not None and self._model.done():
            self._model.result().reset()
        self._texts.remove(text)

    @property
    def turn(self) -> Text | None:
        """The text that has its turn."""
        return self._texts[0] if self._texts else None

    def busy(self) -> bool:
        """Whether a step would do anything."""
        return any(len(text.tokens) - 1 > text.fed for text in self._texts[:1])

    def step(self) -> None:
        """Feed one piece of the text whose turn it is. What is raised is about that text."""
        if not self.busy():
            return
        (text, *_) = self._texts
        if text.fed:
            _check_room(COPIES * self._kv_bytes * text.fed)
        if self._model is None:
            # In a thread of its own, so that running answers go on.
            self._model = self._thread.submit(Stateful, self._folder, "f32")
        if not wait((self._model,), WAIT_S if self._idle() else 0).done:
            return
        try:
            model = self._model.result()
        except BaseException:
            self._model = None
            raise
        piece = text.piece(self._piece)
        fed = np.array([piece], np.int64)
        if self._table is not None:
            ids = np.array(text.tokens, np.int64)
            fed = self._table.of(ids, text.pictures, text.fed, text.fed + len(piece))
        text.take(model.feed(fed)[0])

    def close(self) -> None:
        """Release the model."""
        self._texts.clear()
        self._model = None
        self._thread.shutdown(wait=False, cancel_futures=True)


def _check_room(needed: int) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFit(
            f"Log probabilities need {needed >> 20} MiB more; {free >> 20} MiB are free.",
            hint="Leave out logprobs, or ask with a shorter prompt.",
        )


def scores_of(logits: np.ndarray, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Log probabilities of `tokens` (T) under `logits` (T, V), and the `top` best beside each."""
    if not np.isfinite(logits.max(-1)).all():
        raise LMaaSError("The model's log probabilities are no numbers.")
    best = logits.max(-1, keepdims=True)
    whole = best + np.log(np.exp(logits - best).sum(-1, keepdims=True))
    own = (logits[np.arange(len(tokens)), list(tokens)] - whole[:, 0]).tolist()
    if not top:
        return [TokenScore(value) for value in own]
    top = min(top, logits.shape[-1])
    some = np.argpartition(-logits, top - 1, axis=-1)[:, :top]
    values = np.take_along_axis(logits, some, -1) - whole
    order = np.argsort(-values, axis=-1, kind="stable")
    ids = np.take_along_axis(some, order, -1).tolist()
    values = np.take_along_axis(values, order, -1).tolist()
    return [
        TokenScore(value, tuple(zip(others, logs, strict=True)))
        for value, others, logs in zip(own, ids, values, strict=True)
    ]


def score(scorer: Scorer, prompt: Sequence[int], top: int) -> Scores:
    """The scores of a prompt, piece by piece; empty pieces while others have their turn."""
    text = Text(prompt, top, first=1)
    scorer.add(text, len(prompt))
    try:
        yield [TokenScore(None)]
        while text.fed < len(prompt) - 1:
            scorer.step()
            told, text.scores = text.scores, []
            yield told
    finally:
        scorer.remove(text)
