"""Rows that are written together: one past of the decoder's graph, shared by those who come and go.

All rows of a lane share the number of columns in the graph's states. A row that joins late has the
columns before it hidden; one that leaves is not gone on from. Where too much is hidden, the states
are written anew without it. The rows of a source stand side by side and share its keys and values.
Sequences with equally many rows share a lane.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np

from lmaas.runtime import ov
from lmaas.runtime.sequence.sources import Encoded

HIDDEN: Final = np.float32(-1e9)
ROUND: Final = 16
"""Room for sources and columns grows in such steps, so that it seldom grows."""
SPARE: Final = 64
"""Columns that may be hidden in all rows before the states are written anew."""
LONG_PROMPT: Final = 8
"""A prompt of more tokens is read in one run, although the other rows wait for that."""

LARGE_SOURCE: Final = 4 << 20
"""Sources of more bytes get room one by one."""

M = TypeVar("M")


class Lane(Generic[M]):
    """Members of `width` rows each, and the run of the graph that holds their past."""

    def __init__(self, compiled: Any, names: Sequence[str], width: int) -> None:
        self._tensor = ov.load().Tensor
        self._request = compiled.create_infer_request()
        self._names = names
        known = {name for port in compiled.inputs for name in port.get_names()}
        self._relative = "key_places" in known
        self._masks_sources = "source_mask" in known
        self.width = width
        self.members: list[M] = []
        self._lengths: list[int] = []
        self._rows = np.zeros(0, np.int32)
        self._pending: list[list[int]] = []
        self._places = np.zeros(0, np.int64)
        self._columns = 0
        self._seen = np.full((0, 0), HIDDEN, np.float32)
        self._key_places = np.zeros((0, 0), np.int64)
        self._cross: list[np.ndarray] = []
        self._source_mask = np.zeros((0, 1, 1, 0), np.float32)
        self._stale = True
        self._held: list[Any] = []
        self._outputs: Any = None

    @property
    def columns(self) -> int:
        """Tokens of past in the states, the hidden ones included."""
        return self._columns

    def join(self, member: M, prompt: Sequence[int], source: Encoded) -> None:
        """Let `member` begin with `prompt` at the next run."""
        first, width = len(self._pending), self.width
        self.members.append(member)
        self._lengths.append(source.length)
        # A new row goes on from any old one, of which it sees nothing.
        self._rows = np.concatenate([self._rows, np.zeros(width, np.int32)])
        self._pending += [list(prompt) for _ in range(width)]
        self._places = np.concatenate([self._places, np.zeros(width, np.int64)])
        self._grow(first + width, self._columns)
        self._seen[first : first + width] = HIDDEN
        self._put(len(self.members) - 1, source)

    def leave(self, member: M) -> None:
        """Drop a member; the last one takes its place."""
        width, gone, last = self.width, self.members.index(member), len(self.members) - 1
        if gone != last:
            here, there = slice(gone * width, gone * width + width), slice(last * width, None)
            self.members[gone], self._lengths[gone] = self.members[last], self._lengths[last]
            self._rows[here] = self._rows[there]
            self._pending[here] = self._pending[there]
            self._places[here] = self._places[there]
            end = last * width
            self._seen[here] = self._seen[end : end + width]
            if self._relative:
                self._key_places[here] = self._key_places[end : end + width]
            for array in (*self._cross, self._source_mask):
                array[gone] = array[last]
        del self.members[last], self._lengths[last], self._pending[last * width :]
        self._rows, self._places = self._rows[: last * width], self._places[: last * width]
        self._stale = True
        if not self.members:
            self._empty()

    def source_of(self, member: M) -> Encoded:
        """What `member` looks at, as it was given."""
        number = self.members.index(member)
        length = self._lengths[number]
        layers = [array[number, :, :length].copy() for array in self._cross]
        return Encoded(layers=layers, length=length)

    def go_on(self, member: int, tokens: Sequence[int], parents: Sequence[int] | None) -> None:
        """The member of this number reads `tokens`, one a row; each row goes on from one of it."""
        first = member * self.width
        for row, token in enumerate(tokens, first):
            self._pending[row] = [token]
        if parents is None or self.width == 1:
            return
        own = first + np.asarray(parents)
        here = slice(first, first + self.width)
        self._rows[here] = own
        self._seen[here, : self._columns] = self._seen[own, : self._columns]
        if self._relative:
            self._key_places[here, : self._columns] = self._key_places[own, : self._columns]

    def run(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read what is pending, or some of it: logits (R, V), normalizers (R, 1), and which rows
        (R,) have read all and know what follows. The arrays are the graph's own until its next run.
        """
        self._compact()
        counts = np.fromiter(map(len, self._pending), np.int64, len(self._pending))
        longest = int(counts.max())
        run = longest if longest > LONG_PROMPT or (counts == longest).all() else int(counts.min())
        taken = np.minimum(counts, run)
        self._grow(len(counts), self._columns + run)
        inputs = self._one() if run == 1 else self._many(run, taken)
        self._set(inputs)
        self._request.infer()
        self._columns += run
        self._places += taken
        complete = counts == taken
        for row in np.flatnonzero(taken):
            del self._pending[row][: taken[row]]
        self._rows = np.arange(len(counts), dtype=np.int32)
        return (
            self._request.get_tensor("logits").data,
            self._request.get_tensor("normalizer").data,
            complete,
        )

    def attention(self) -> np.ndarray:
        """Where the alignment heads looked in the last run, (N, heads, width x T, S)."""
        return np.array(self._request.get_tensor("attention").data)

    def close(self) -> None:
        """Give back what the graph holds."""
        self._request = None
        self._held = []

    def _one(self) -> dict[str, np.ndarray]:
        rows, end = len(self._pending), self._columns + 1
        tokens = np.array([pending[0] for pending in self._pending], np.int64)[:, None]
        places = self._places[:, None].copy()
        self._seen[:rows, self._columns] = 0
        inputs: dict[str, np.ndarray] = {"tokens": tokens, "places": places,
                  "mask": np.ascontiguousarray(self._seen[:rows, :end])[:, None]}  # fmt: skip
        if self._relative:
            self._key_places[:rows, self._columns] = self._places
            inputs["key_places"] = np.ascontiguousarray(self._key_places[:rows, :end])
        return inputs

    def _many(self, run: int, taken: np.ndarray) -> dict[str, np.ndarray]:
        """Rows with fewer tokens than `run` have theirs at the end; what is before is nothing."""
        rows, start, end = len(taken), self._columns, self._columns + run
        tokens = np.zeros((rows, run), np.int64)
        places = np.zeros((rows, run), np.int64)
        mask = np.full((rows, run, end), HIDDEN, np.float32)
        later = np.triu(np.full((run, run), HIDDEN, np.float32), 1)
        for row, count in enumerate(taken.tolist()):
            skip = run - count
            tokens[row, skip:] = self._pending[row][:count]
            places[row, skip:] = self._places[row] + np.arange(count)
            mask[row, skip:, :start] = self._seen[row, :start]
            mask[row, skip:, start + skip :] = later[skip:, skip:]
            self._seen[row, start:end] = HIDDEN
            self._seen[row, start + skip : end] = 0
            if self._relative:
                self._key_places[row, start:end] = places[row]
        inputs: dict[str, np.ndarray] = {"tokens": tokens, "places": places, "mask": mask}
        if self._relative:
            inputs["key_places"] = np.ascontiguousarray(self._key_places[:rows, :end])
        return inputs

    def _set(self, inputs: dict[str, np.ndarray]) -> None:
        """Give the graph its inputs; it reads the arrays' own memory, so they are kept."""
        request, tensor = self._request, self._tensor
        inputs["rows"] = self._rows
        for name, array in inputs.items():
            request.set_tensor(name, tensor(array, shared_memory=True))
        self._held = list(inputs.values())
        if not self._stale:
            return
        count = len(self.members)
        for name, array in zip(self._names, self._cross, strict=True):
            request.set_tensor(name, tensor(array[:count], shared_memory=True))
        if self._masks_sources:
            request.set_tensor("source_mask", tensor(self._source_mask[:count], shared_memory=True))
        self._stale = False

    def _grow(self, rows: int, columns: int) -> None:
        """Have room for so many rows and columns."""
        have_rows, have_columns = self._seen.shape
        if rows <= have_rows and columns <= have_columns:
            return
        size = (max(have_rows, _rounded(rows)), max(have_columns, _rounded(columns + SPARE)))
        seen = np.full(size, HIDDEN, np.float32)
        seen[:have_rows, :have_columns] = self._seen
        self._seen = seen
        if self._relative:
            key_places = np.zeros(size, np.int64)
            key_places[:have_rows, :have_columns] = self._key_places
            self._key_places = key_places

    def _put(self, number: int, source: Encoded) -> None:
        """Lay a source's keys and values where member `number` finds them."""
        self._stale = True
        members = self._cross[0].shape[0] if self._cross else 0
        length = self._cross[0].shape[2] if self._cross else 0
        if number >= members or source.length > length:
            size = sum(layer.nbytes for layer in source.layers)
            wanted = number + 1 if size > LARGE_SOURCE else _doubled(number + 1)
            self._widen(max(members, wanted), source, number)
        for array, layer in zip(self._cross, source.layers, strict=True):
            array[number, :, : source.length] = layer
        self._source_mask[number] = HIDDEN
        self._source_mask[number, ..., : source.length] = 0

    def _widen(self, members: int, source: Encoded, kept: int) -> None:
        """Room for more or longer sources; those of the first `kept` members move."""
        length = _rounded(source.length) if self._masks_sources else source.length
        length = max(length, self._cross[0].shape[2] if self._cross else 0)
        for number, layer in enumerate(source.layers):
            heads, _, width = layer.shape
            array = np.zeros((members, heads, length, width), np.float32)
            if number < len(self._cross):
                before = self._cross[number]
                array[:kept, :, : before.shape[2]] = before[:kept]
                self._cross[number] = array  # one after the other: what was there goes at once
            else:
                self._cross.append(array)
        mask = np.full((members, 1, 1, length), HIDDEN, np.float32)
        mask[:kept, ..., : self._source_mask.shape[-1]] = self._source_mask[:kept]
        self._source_mask = mask

    def _empty(self) -> None:
        """Begin anew: nobody is there."""
        self._request.reset_state()
        self._columns = 0
        self._cross = []
        self._source_mask = np.zeros((0, 1, 1, 0), np.float32)
        self._seen = np.full((0, 0), HIDDEN, np.float32)
        self._key_places = np.zeros((0, 0), np.int64)

    def _compact(self) -> None:
        """Write the states anew where most of their columns are hidden to all rows."""
        longest = int(self._places.max(initial=0))
        if self._columns <= 2 * longest + SPARE or not self._columns:
            return
        rows, longest = len(self._pending), max(1, longest)
        seen = self._seen[:rows, : self._columns] == 0
        # Columns of each row that it sees, at the beginning; what is left over is hidden.
        order = np.argsort(~seen, axis=1, kind="stable")[:, :longest]
        for state in self._request.query_state():
            past = np.array(state.state.data)[self._rows]
            kept = np.take_along_axis(past, order[:, None, :, None], 2)
            state.state = self._tensor(np.ascontiguousarray(kept))
        self._rows = np.arange(rows, dtype=np.int32)
        told = np.take_along_axis(seen, order, 1)
        self._seen[:rows] = HIDDEN
        self._seen[:rows, :longest] = np.where(told, np.float32(0), HIDDEN)
        if self._relative:
            places = np.take_along_axis(self._key_places[:rows], order, 1)
            self._key_places[:rows, :longest] = places
        self._columns = longest


def _rounded(size: int) -> int:
    return -(-size // ROUND) * ROUND


def _doubled(size: int) -> int:
    return 1 << (size - 1).bit_length()
