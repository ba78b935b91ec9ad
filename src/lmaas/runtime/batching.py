"""Which requests run together, and how a batch runs so that each request succeeds or fails alone.

There is no timer: a batch is what waits when the engine gets free, so a lone request never waits
for company. This module knows no sockets, processes or clocks but the durations it is told.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final

import msgspec
import numpy as np

from lmaas.runtime.padding import Key, Padding
from lmaas.tasks.base import Batch, Tensors

FAST_ROW_S: Final = 0.0001
OVERLAP_ROWS: Final = 8
TARGET_BATCH_S: Final = 0.1
"""A batch is kept so small that it takes about this long: beyond, joining more samples gains no
throughput (measured on convolutions and transformers) and only delays answers and cancels."""


class State(Enum):
    """Where a request is inside the worker."""

    DECODING = "decoding"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"


class BatchRequest(msgspec.Struct, kw_only=True, eq=False):
    """One request inside the worker; `batch` is None until its payload is decoded.

    A request in parts has them as its `batch` one after another; `whole` is the batch that they
    are of, and `ran` holds the outputs of those that have run. Between two of them others run.
    """

    id: int
    batch: Batch | None = None
    state: State = State.DECODING
    whole: Batch | None = None
    ran: list[Tensors] = []

    def begin(self, batch: Batch) -> None:
        """The payload is decoded."""
        self.batch, self.whole, self.ran = batch, None, []
        if batch.parts:
            self.whole, self.batch = batch, batch.parts[0]

    def end_part(self, outputs: Tensors) -> tuple[Batch, Tensors] | None:
        """The batch to be answered and its outputs; None where another part is to run first."""
        assert self.batch is not None
        if self.whole is None:
            return self.batch, outputs
        self.ran.append(outputs)
        if len(self.ran) < len(self.whole.parts):
            self.batch = self.whole.parts[len(self.ran)]
            return None
        return self.whole, {name: np.concatenate([r[name] for r in self.ran]) for name in outputs}


class Batcher:
    """The requests that wait, in order of arrival, and the choice of the next batch.

    Requests join when names, dtypes and all axes but the first of their arrays agree, or nearly do
    where there is `padding`, up to `max_batch_size` rows. With `joins` False each runs alone. A
    request with more rows than the bound runs alone too (`run_rows` splits it).
    """

    def __init__(self, max_batch_size: int, *, joins: bool, padding: Padding | None = None) -> None:
        self._padding = padding
        self._max_rows = max_batch_size
        self._joins = joins
        self._groups: dict[Key, deque[tuple[int, BatchRequest]]] = {}
        self._arrivals = 0
        self._waiting = 0
        self._unit_s = 0.0

    def __len__(self) -> int:
        return self._waiting

    def max_rows(self, row_cost: int = 1) -> int:
        """Most rows that one engine call takes now, by the bound and by the time rows take."""
        row_s = self._unit_s * row_cost
        if row_s * self._max_rows <= TARGET_BATCH_S:
            return self._max_rows
        return max(1, int(TARGET_BATCH_S / row_s))

    def _room(self, row_cost: int) -> int:
        """Rows for the next batch: `max_rows`, but few of fast rows where few wait.

        Rows that take microseconds cost the server as much as the engine. While it hands out some
        answers, the engine runs the next ones; where many wait, both have enough to do anyway.
        """
        few = self._waiting <= 2 * OVERLAP_ROWS
        most = self.max_rows(row_cost)
        if few and 0 < self._unit_s * row_cost < FAST_ROW_S:
            return min(most, OVERLAP_ROWS)
        return most

    def add(self, request: BatchRequest) -> None:
        """Let a decoded request wait."""
        assert request.batch is not None
        request.state = State.WAITING
        if self._padding is not None:
            key = self._padding.key(request.batch.arrays)
        else:
            key = _key(request.batch.arrays) if self._joins else ()
        self._groups.setdefault(key, deque()).append((self._arrivals, request))
        self._arrivals += 1
        self._waiting += 1

    def cancel(self, request: BatchRequest) -> None:
        """Take a waiting request out."""
        if request.state is State.WAITING:
            self._waiting -= 1
        request.state = State.CANCELLED

    def next(self) -> list[BatchRequest]:
        """The next batch: the oldest request and all that may join it. Empty if none waits."""
        for key in [key for key, group in self._groups.items() if not _skip_cancelled(group)]:
            del self._groups[key]
        if not self._groups:
            return []
        group = min(self._groups.values(), key=lambda group: group[0][0])
        oldest = group[0][1].batch
        assert oldest is not None
        room = self._room(oldest.row_cost) if self._joins else 1
        chosen: list[BatchRequest] = []
        while _skip_cancelled(group):
            request = group[0][1]
            assert request.batch is not None
            if chosen and (not self._joins or request.batch.size > room):
                break
            group.popleft()
            request.state = State.RUNNING
            chosen.append(request)
            room -= request.batch.size
            if room <= 0:
                break
        self._waiting -= len(chosen)
        return chosen

    def expected_s(self, cost: int) -> float:
        """How long a batch of this cost (rows times `row_cost`) should take, by earlier ones."""
        return self._unit_s * cost

    def took(self, cost: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        unit_s = seconds / cost
        self._unit_s = unit_s if not self._unit_s else 0.8 * self._unit_s + 0.2 * unit_s


def run_batch(
    requests: Sequence[BatchRequest],
    infer: Callable[[Tensors], Tensors],
    *,
    joins: bool,
    max_rows: int,
    padding: Padding | None = None,
) -> Iterator[tuple[BatchRequest, Tensors | BaseException]]:
    """Run decoded requests together; give each its own rows of the outputs, or its error.

    When the batch fails, or mixes up its rows, each request runs again alone, so that only the
    culprit fails. Requests cancelled meanwhile are left out.
    """
    if len(requests) > 1:
        yield from _run_joined(requests, infer, max_rows, padding)
        return
    for request in requests:
        yield _run_alone(request, infer, joins=joins, max_rows=max_rows)


def _run_joined(
    requests: Sequence[BatchRequest],
    infer: Callable[[Tensors], Tensors],
    max_rows: int,
    padding: Padding | None,
) -> Iterator[tuple[BatchRequest, Tensors | BaseException]]:
    batches = [_decoded(request) for request in requests]
    rows = sum(batch.size for batch in batches)
    try:
        names = batches[0].arrays
        if padding is None:
            outputs = infer({n: np.concatenate([b.arrays[n] for b in batches]) for n in names})
        else:
            outputs = infer(padding.join([batch.arrays for batch in batches]))
        _check_rows(outputs, rows)
    except BaseException:  # noqa: BLE001 - each request runs again alone and gets its own error
        for request in requests:
            if request.state is not State.CANCELLED:
                yield _run_alone(request, infer, joins=True, max_rows=max_rows)
        return
    start = 0
    for request, batch in zip(requests, batches, strict=True):
        end = start + batch.size
        own = {name: array[start:end] for name, array in outputs.items()}
        yield request, own if padding is None else padding.cut(own, padding.length(batch.arrays))
        start = end


def _run_alone(
    request: BatchRequest, infer: Callable[[Tensors], Tensors], *, joins: bool, max_rows: int
) -> tuple[BatchRequest, Tensors | BaseException]:
    batch = _decoded(request)
    try:
        if not joins or batch.size <= max_rows:
            return request, infer(batch.arrays)
        parts = []
        for start in range(0, batch.size, max_rows):
            if request.state is State.CANCELLED:
                break
            part = {name: a[start : start + max_rows] for name, a in batch.arrays.items()}
            parts.append(infer(part))
            _check_rows(parts[-1], min(max_rows, batch.size - start))
        return request, {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    except BaseException as error:  # noqa: BLE001 - handed to the one request that it belongs to
        return request, error


def _decoded(request: BatchRequest) -> Batch:
    assert request.batch is not None
    return request.batch


def _check_rows(outputs: Tensors, rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ValueError(f"Output {name!r} has shape {array.shape} for {rows} input rows.")


def _key(arrays: Tensors) -> Key:
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in arrays.items())


def _skip_cancelled(group: deque[tuple[int, BatchRequest]]) -> bool:
    """Drop cancelled requests at the head; whether any is left."""
    while group and group[0][1].state is State.CANCELLED:
        group.popleft()
    return bool(group)
