"""What a sequence may not say next, and what it says less readily: changes to a row of logits.

The rules and their order are those of transformers' logits processors (5.5.4), so that the same
tokens come out.
"""

from collections.abc import Sequence

import numpy as np

from lmaas.runtime.sequence.calls import Decoding

NEVER = np.float32(-np.inf)


class Rules:
    """The rules of one sequence. Rows of logits are changed in place."""

    def __init__(self, decoding: Decoding) -> None:
        d = self._decoding = decoding
        self._begin = len(d.prompt)
        self._suppressed = np.array(d.suppressed, np.int64)
        self._first = np.array(d.suppressed_first, np.int64)
        self._stops = np.array(d.stop_token_ids, np.int64)
        self.reads_history = (
            d.repetition_penalty != 1.0 or d.no_repeat_ngram > 0 or d.timestamps is not None
        )
        self.always = self.reads_history or bool(d.suppressed)
        self.changes_values = d.repetition_penalty != 1.0

    def active(self, length: int) -> bool:
        """Whether anything holds for the token after `length` tokens, the prompt's included."""
        d = self._decoding
        return (
            self.always
            or (length == self._begin and bool(d.suppressed_first))
            or length < d.min_tokens
            or self.forces(length)
        )

    def forces(self, length: int) -> bool:
        """Whether the token after `length` tokens is given, whatever the model says."""
        d = self._decoding
        return d.forced_last is not None and length == d.max_tokens - 1

    def apply(self, row: np.ndarray, tokens: Sequence[int], zero: float) -> None:
        """Change the logits `row` (V,) of what follows `tokens`, the prompt included.

        `zero` is the value that stands for a probability of 1.
        """
        d, length = self._decoding, len(tokens)
        if d.repetition_penalty != 1.0:
            # Beams are penalised in log probabilities, as transformers does: `zero` shifts there.
            said = np.unique(np.fromiter(tokens, np.int64, length))
            value = row[said] - zero
            penalty = np.float32(d.repetition_penalty)
            row[said] = np.where(value < 0, value * penalty, value / penalty) + zero
        if d.no_repeat_ngram and length + 1 >= d.no_repeat_ngram:
            row[self._repeated(tokens, d.no_repeat_ngram)] = NEVER
        if length < d.min_tokens:
            row[self._stops] = NEVER
        if self.forces(length):
            assert d.forced_last is not None
            row[:] = NEVER
            row[d.forced_last] = zero
        if length == self._begin:
            row[self._first] = NEVER
        row[self._suppressed] = NEVER
        if d.timestamps is not None:
            self._times(row, tokens[self._begin :], d.timestamps)

    def _repeated(self, tokens: Sequence[int], size: int) -> list[int]:
        """Tokens that would end an n-gram which is there already."""
        last = tuple(tokens[len(tokens) - size + 1 :]) if size > 1 else ()
        return [
            tokens[i + size - 1]
            for i in range(len(tokens) - size + 1)
            if tuple(tokens[i : i + size - 1]) == last
        ]

    def _times(self, row: np.ndarray, said: Sequence[int], first: int) -> None:
        """Whisper's rules of time tokens (Radford et al. 2022): in pairs, never back."""
        row[first - 1] = NEVER  # "no timestamps"
        last = len(said) >= 1 and said[-1] >= first
        before = len(said) < 2 or said[-2] >= first
        if last:
            if before:
                row[first:] = NEVER
            else:
                row[: int(self._stops.min(initial=first))] = NEVER
        times = [token for token in said if token >= first]
        if times:
            least = times[-1] if last and not before else times[-1] + 1
            row[first:least] = NEVER
        if not said:
            row[:first] = NEVER
            most = self._decoding.most_first_timestamp
            if most is not None:
                row[first + most + 1 :] = NEVER
        text = row[:first].max()
        time = row[first:]
        most_time = time.max(initial=NEVER)
        if most_time > NEVER:
            total = most_time + np.log(np.exp(time - most_time).sum())
            if total > text:
                row[:first] = NEVER
