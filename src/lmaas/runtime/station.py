"""One engine inside a worker, the requests that wait for it, and the batch that it runs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmaas.runtime.batching import Batcher, BatchRequest, State, run_batch
from lmaas.runtime.engine import make_engine
from lmaas.runtime.heartbeat import Heartbeat
from lmaas.runtime.journal import RequestJournal
from lmaas.runtime.padding import Padding
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature


class Station:
    """The engine called `engine`, for a model with this signature.

    `number` is that of its calls in the heartbeat. The main thread decides what runs; `run` is for
    one thread at a time.
    """

    def __init__(
        self,
        engine: str,
        signature: Signature,
        max_batch_size: int,
        heartbeat: Heartbeat,
        journal: RequestJournal,
        number: int = 0,
    ) -> None:
        self.running: Sequence[BatchRequest] = ()
        self._signature = signature
        self._engine = make_engine(engine)
        self._padding = Padding.of(signature)
        self._batcher = Batcher(max_batch_size, joins=signature.batch, padding=self._padding)
        self._heartbeat = heartbeat
        self._journal = journal
        self._number = number

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._batcher)

    @property
    def runnable(self) -> bool:
        """Whether requests wait and the engine is free."""
        return bool(self._batcher) and not self.running

    def warm(self) -> None:
        """Import what loading takes."""
        self._engine.warm()

    def load(self, folder: Path, precision: Precision, threads: int) -> None:
        """Load the model. Raises LMaaSError when it cannot be loaded."""
        self._engine.load(folder, self._signature, precision, threads)

    def close(self) -> None:
        """Release the model."""
        self._engine.close()

    def add(self, request: BatchRequest) -> None:
        """Let a decoded request wait."""
        self._batcher.add(request)

    def cancel(self, request: BatchRequest) -> None:
        """Take a request out; what runs for cancelled requests alone is broken off."""
        self._batcher.cancel(request)
        if self.running and all(each.state is State.CANCELLED for each in self.running):
            self._engine.cancel()

    def take(self) -> list[BatchRequest]:
        """The requests of the next batch; empty if none waits."""
        return self._batcher.next()

    def expected_s(self, requests: Sequence[BatchRequest]) -> float:
        """How long they should take, by earlier batches; 0 before there was one."""
        return self._batcher.expected_s(_cost(requests))

    def run(
        self, requests: Sequence[BatchRequest], slot: int
    ) -> Iterator[tuple[BatchRequest, Tensors | BaseException]]:
        """Run them together; each gets its outputs or its error. `slot` is the journal's.

        What is done with a result before the next is asked for counts as part of the batch.
        """
        start, cost = time.perf_counter(), _cost(requests)
        self._journal.begin(slot, [request.id for request in requests], timed=False)
        yield from run_batch(
            requests,
            self._infer,
            joins=self._signature.batch,
            max_rows=self._batcher.max_rows(_row_cost(requests[0])),
            padding=self._padding,
        )
        self._journal.end(slot)
        self._batcher.took(cost, time.perf_counter() - start)

    def _infer(self, arrays: Tensors) -> Tensors:
        rows = 1
        if self._signature.batch:
            rows = next(iter(arrays.values())).shape[0]
        self._heartbeat.begin(self._number)
        try:
            return self._engine.infer(arrays)
        finally:
            self._heartbeat.end(rows, self._number)


def _row_cost(request: BatchRequest) -> int:
    assert request.batch is not None
    return request.batch.row_cost


def _cost(requests: Sequence[BatchRequest]) -> int:
    return max(1, sum(r.batch.size * r.batch.row_cost for r in requests if r.batch is not None))
