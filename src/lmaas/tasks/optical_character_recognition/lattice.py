"""From a reader's outputs to a text with the score of each character.

Greedy: the likeliest class of each step, repetitions and blanks left out (Graves et al., 2006,
section 3.2). With a pattern: see `fitting`. Probabilities are the model's own: that of an O where
the pattern wants a 0 stays low.
"""

from typing import Final, NamedTuple

import numpy as np

from lmaas.errors import LMaaSError
from lmaas.tasks.optical_character_recognition.automaton import Automaton, automaton
from lmaas.tasks.optical_character_recognition.fitting import Run, fitting
from lmaas.types import ReadingSpec, Signature

TINY: Final = 1e-38
DIGITS: Final = 6
"""So many decimal places have scores in answers."""


class Reading(NamedTuple):
    """A text, the scores of its characters, and the score of the whole: their mean.

    A text without characters has the mean probability of the blank as its score; 0 where the steps
    are too few for any text of the pattern's form.
    """

    text: str
    score: float
    characters: tuple[float, ...]


def blank_of(spec: ReadingSpec) -> int:
    """The blank's class."""
    return 0 if spec.blank == "first" else len(spec.characters)


def first_of(spec: ReadingSpec) -> int:
    """The class of the first character."""
    return 1 if spec.blank == "first" else 0


def automaton_of(spec: ReadingSpec, pattern: str) -> Automaton:
    """The automaton of a pattern. Raises InvalidInput."""
    return automaton(pattern, spec.characters, first_of(spec))


def probabilities(outputs: np.ndarray, signature: Signature) -> np.ndarray:
    """(…, steps, classes) probabilities, float32. Raises LMaaSError for what are no numbers."""
    if not np.isfinite(outputs).all():
        raise LMaaSError("The model's outputs hold NaN or infinity for this image.")
    values: np.ndarray = outputs.astype(np.float32)
    if signature.outputs_are == "probabilities":
        return values
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values


def read(scores: np.ndarray, spec: ReadingSpec, wanted: Automaton | None = None) -> Reading:
    """The text of one image's (steps, classes) probabilities."""
    blank = blank_of(spec)
    if wanted is None:
        found: list[Run] | None = greedy(scores, blank)
    else:
        found = fitting(np.log(np.maximum(scores, TINY)), wanted, blank)
    if found is None:
        return Reading("", 0.0, ())
    told = tuple(float(scores[run.start : run.end, run.number].max()) for run in found)
    first = first_of(spec)
    text = "".join(spec.characters[run.number - first] for run in found)
    score = float(np.mean(told)) if told else float(scores[:, blank].mean())
    return Reading(text, _rounded(score), tuple(map(_rounded, told)))


def _rounded(score: float) -> float:
    return min(round(score, DIGITS), 1.0)


def greedy(scores: np.ndarray, blank: int) -> list[Run]:
    """The runs of the likeliest class of each step, without the blank's."""
    best = scores.argmax(axis=-1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    return [
        Run(number, start, end)
        for number, start, end in zip(
            best[starts].tolist(), starts.tolist(), ends.tolist(), strict=True
        )
        if number != blank
    ]
