"""From a CTC model's outputs to letters with times and probabilities.

Greedy: the likeliest token of each step, repetitions and blanks left out (Graves et al., 2006,
section 3.2). Probabilities are the model's own; that of a text is the sum over all its alignments
(section 4.1).
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet

WORD_PAUSE_S: Final = 0.4
"""Letters that are farther apart are of two words: what was learned from single sentences has no
gaps between them."""
PAUSE_S: Final = 0.6
"""Words that are farther apart are in two segments."""
LONGEST_SEGMENT_S: Final = 20.0


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was heard, in steps `start` to before `end`; `probability` is the highest."""

    token: int
    start: int
    end: int
    probability: float


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """A word: its letters."""

    letters: tuple[Letter, ...]

    @property
    def start(self) -> int:
        """Its first step."""
        return self.letters[0].start

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.letters[-1].end


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """(T, V) logits as natural-log probabilities, float32."""
    values: np.ndarray = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def letters(scores: np.ndarray, alphabet: Alphabet) -> list[Letter]:
    """The letters of (T, V) log probabilities, delimiters among them."""
    if not len(scores):
        return []
    best = scores.argmax(axis=-1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    return [
        Letter(
            token=int(best[start]),
            start=int(start),
            end=int(end),
            probability=float(np.exp(scores[start:end, best[start]].max())),
        )
        for start, end in zip(starts, ends, strict=True)
        if best[start] != alphabet.blank
    ]


def words(found: Sequence[Letter], alphabet: Alphabet, step_s: float | None = None) -> list[Spoken]:
    """The letters between delimiters; without a delimiter each token is a word.

    With the length of a step, letters that are WORD_PAUSE_S apart are of two words as well.
    """
    apart = None if step_s is None else WORD_PAUSE_S / step_s
    told: list[Spoken] = []
    run: list[Letter] = []
    for each in found:
        if each.token in alphabet.silent:
            continue
        if run and apart is not None and each.start - run[-1].end >= apart:
            told.append(Spoken(letters=tuple(run)))
            run = []
        if each.token != alphabet.delimiter:
            run.append(each)
        if run and alphabet.delimiter in (None, each.token):
            told.append(Spoken(letters=tuple(run)))
            run = []
    if run:
        told.append(Spoken(letters=tuple(run)))
    return told


def text_of(found: Sequence[Letter], alphabet: Alphabet) -> str:
    """A word's letters."""
    return "".join(alphabet.tokens[each.token] for each in found)


def join(told: Sequence[Spoken], alphabet: Alphabet) -> str:
    """Words as a text; tokens without a delimiter stand side by side."""
    between = "" if alphabet.delimiter is None else " "
    return between.join(text_of(each.letters, alphabet) for each in told)


def segments(told: Sequence[Spoken], step_s: float) -> Iterator[list[Spoken]]:
    """Words without a long pause between them, of LONGEST_SEGMENT_S at most."""
    run: list[Spoken] = []
    for each in told:
        apart = run and (each.start - run[-1].end) * step_s >= PAUSE_S
        if apart or (run and (each.end - run[0].start) * step_s > LONGEST_SEGMENT_S):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def log_probability(scores: np.ndarray, tokens: Sequence[int], blank: int) -> float:
    """The natural-log probability of `tokens`, given (T, V) log probabilities: the sum over all
    alignments, in the logarithm.
    """
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    # A state may be left out where the two beside it differ.
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    paths = np.full(len(states), -np.inf)
    paths[:2] = scores[0, states[:2]]
    for step in scores[1:]:
        before = np.append(-np.inf, paths[:-1])
        two_before = np.where(
            skips, np.append([-np.inf, -np.inf], paths[:-2])[: len(paths)], -np.inf
        )
        paths = np.logaddexp(np.logaddexp(paths, before), two_before) + step[states]
    return float(np.logaddexp(paths[-1], paths[-2]) if len(paths) > 1 else paths[-1])
