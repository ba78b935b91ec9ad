"""The likeliest text of a form, exactly: Viterbi's algorithm (1967) over a reader's steps and the
places of a pattern.
"""

from typing import Final, NamedTuple

import numpy as np

from lmaas.tasks.optical_character_recognition.automaton import Automaton

NEVER: Final = -np.inf
START: Final = -1
"""What comes before a text's first character; as a choice, the blank."""
WAYS: Final = 3
"""Of each place before, its blank, its best character and its second best are ways."""


class Run(NamedTuple):
    """A character's class, and the steps from `start` to before `end` in which it is."""

    number: int
    start: int
    end: int


def fitting(logs: np.ndarray, wanted: Automaton, blank: int) -> list[Run] | None:
    """The runs of the likeliest path of (steps, classes) log probabilities whose text has the form;
    None where the steps are too few for it.

    A state is a place with one of its classes, or a place and the blank after it.
    """
    steps = len(logs)
    places, choices = wanted.classes.shape
    # A step at a time: of all steps together it could be much memory.
    nowhere = np.where(wanted.classes < 0, NEVER, 0.0)
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
        inside = np.maximum(inside, value) + (logs[step][wanted.classes] + nowhere)
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
        self._sources = np.append(np.repeat(wanted.before, WAYS, axis=1), self._none, axis=1)

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
        choice = int(entry.choices[place, way % WAYS]) if place != START else START
        end = step
        step -= 1
    return found[::-1]
