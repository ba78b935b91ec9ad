"""From a reader's outputs to a text with the score of each character.

Greedy: the likeliest class of each step, repetitions and blanks left out (Graves et al., 2006,
section 3.2). With a pattern: the likeliest path through the steps whose text has the pattern's
form, found exactly (Viterbi, 1967, over the product of steps and places). Probabilities are the
model's own: that of an O where the pattern wants a 0 stays low.
"""

from typing import Final, NamedTuple

import numpy as np

from lmaas.errors import LMaaSError
from lmaas.tasks.optical_character_recognition.automaton import Automaton, automaton
from lmaas.types import ReadingSpec, Signature

NEVER: Final = -np.inf
TINY: Final = 1e-38
START: Final = -1
"""What comes before a text's first character."""


class Reading(NamedTuple):
    """A text, the scores of its characters, and the score of the whole: their mean.

    A text without characters has the mean probability of the blank as its score; `text` None says
    that no text of the pattern's form fits into so few steps.
    """

    text: str | None
    score: float
    characters: tuple[float, ...]


class Run(NamedTuple):
    """A character's class, and the steps from `start` to before `end` in which it is."""

    number: int
    start: int
    end: int


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
        return Reading(None, 0.0, ())
    told = tuple(float(scores[run.start : run.end, run.number].max()) for run in found)
    first = first_of(spec)
    text = "".join(spec.characters[run.number - first] for run in found)
    score = float(np.mean(told)) if told else float(scores[:, blank].mean())
    return Reading(text, min(score, 1.0), tuple(min(each, 1.0) for each in told))


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


def fitting(logs: np.ndarray, wanted: Automaton, blank: int) -> list[Run] | None:
    """The runs of the likeliest path of (steps, classes) log probabilities whose text has the form;
    None where the steps are too few for it.

    A state is a place with one of its classes, or a place and the blank after it.
    """
    steps = len(logs)
    places, choices = wanted.classes.shape
    said = logs[:, wanted.classes]
    said[:, wanted.classes < 0] = NEVER
    silent = np.concatenate([[0.0], np.cumsum(logs[:, blank], dtype=np.float64)])
    inside = np.full((places, choices), NEVER)
    behind = np.full(places, NEVER)
    ways = _Ways(wanted)
    stays, entries, waits = [], [], []
    for step in range(steps):
        first = inside.argmax(axis=1)
        most = inside[ways.rows, first]
        entry = ways.into(inside, behind, first, most, silent[step])
        value = np.where(
            wanted.classes == entry.number[:, None], entry.other[:, None], entry.best[:, None]
        )
        stays.append(np.packbits(inside >= value, axis=1))
        entries.append(entry)
        waits.append(np.where(behind >= most, START, first))
        behind = np.maximum(behind, most) + logs[step, blank]
        inside = np.maximum(inside, value) + said[step]
    ends = np.where(wanted.lasts, np.maximum(inside.max(axis=1), behind), NEVER)
    place = int(ends.argmax())
    if wanted.empty and silent[steps] >= ends[place]:
        return []
    if ends[place] == NEVER:
        return None
    choice = START if behind[place] >= inside[place].max() else int(inside[place].argmax())
    return _traced(place, choice, stays, entries, waits, ways)


class _Entries(NamedTuple):
    """The best way into each place: its value, which of all ways it is, and of which class it comes
    (-1: of none, so that any character can follow); and the best that is of another class.
    """

    best: np.ndarray
    way: np.ndarray
    number: np.ndarray
    other: np.ndarray
    other_way: np.ndarray
    choices: np.ndarray


class _Ways:
    """The ways into places. Between two equal characters there is a blank, so a character is not
    entered from an equal one: of each place before, its blank, its best character and its second
    best are ways, and of the first places the start is one.
    """

    def __init__(self, wanted: Automaton) -> None:
        self.classes = wanted.classes
        self._before = wanted.before
        self.rows = np.arange(len(wanted.firsts))
        self._outside = wanted.before < 0
        self._start = np.where(wanted.firsts, 0.0, NEVER)
        self._sources = np.append(np.repeat(wanted.before, 3, axis=1), self._none, axis=1)

    @property
    def _none(self) -> np.ndarray:
        return np.full((len(self.rows), 1), START)

    def source(self, place: int, way: int) -> int:
        """The place that a way into `place` comes from."""
        return int(self._sources[place, way])

    def into(
        self,
        inside: np.ndarray,
        behind: np.ndarray,
        first: np.ndarray,
        most: np.ndarray,
        start: float,
    ) -> _Entries:
        """The best ways, where `first` are the best choices `inside` each place, of value `most`,
        and `start` is the value of having begun nothing.
        """
        rows, before = self.rows, self._before
        rest = inside.copy()
        rest[rows, first] = NEVER
        second = rest.argmax(axis=1)
        value = np.stack([behind, most, rest[rows, second]], axis=1)
        choice = np.stack([np.full_like(first, START), first, second], axis=1)
        number = self.classes[rows[:, None], choice]
        number[:, 0] = -1
        ways = value[before]
        ways[self._outside] = NEVER
        values = np.append(ways.reshape(len(rows), -1), (self._start + start)[:, None], axis=1)
        numbers = np.append(number[before].reshape(len(rows), -1), self._none, axis=1)
        best = values.argmax(axis=1)
        own = numbers[rows, best]
        others = np.where((numbers == own[:, None]) & (numbers >= 0), NEVER, values)
        other = others.argmax(axis=1)
        return _Entries(values[rows, best], best, own, others[rows, other], other, choice)


def _traced(
    place: int,
    choice: int,
    stays: list[np.ndarray],
    entries: list[_Entries],
    waits: list[np.ndarray],
    ways: _Ways,
) -> list[Run]:
    """The runs of the path that ends in a state, read backwards."""
    found: list[Run] = []
    end = len(stays)
    step = end - 1
    while step >= 0 and place != START:
        if choice == START:
            choice = int(waits[step][place])
            end = step
            step -= 1
            continue
        if np.unpackbits(stays[step][place], count=ways.classes.shape[1])[choice]:
            step -= 1
            continue
        number = int(ways.classes[place, choice])
        found.append(Run(number, step, end))
        entry = entries[step]
        same = int(entry.number[place]) == number
        way = int((entry.other_way if same else entry.way)[place])
        place = ways.source(place, way)
        # Of each place before there are three ways, in the order of its choices.
        choice = int(entry.choices[place, way % 3]) if place != START else START
        end = step
        step -= 1
    return found[::-1]
