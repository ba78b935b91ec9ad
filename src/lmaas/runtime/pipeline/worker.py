"""The main loop of a pipeline's worker: requests in, turns between its parts, answers out.

Each part has an engine with a thread of its own, so one image is read while the next is detected,
and rows of different requests that wait for one part run as one batch. What lies between two parts
(decoding, cutting out, writing the answer) runs in threads beside them. The main thread does all
the bookkeeping.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.runtime.batching import BatchRequest, State
from lmaas.runtime.heartbeat import Heartbeat, resident_bytes
from lmaas.runtime.journal import RequestJournal
from lmaas.runtime.line import Line
from lmaas.runtime.messages import (
    AnyMessage,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Loaded,
    Stop,
    encode,
    failure,
)
from lmaas.runtime.station import Station
from lmaas.tasks.base import Tensors
from lmaas.tasks.pipelines import BoundPart, Conversation, PipelineTask, Run
from lmaas.types import Answer, Payload

MOST_BEGUN: Final = 4 + 2 * (os.cpu_count() or 1)
"""So many requests are between their parts at once: each holds its decoded images. Enough to keep
the engines and the threads between them at work, and to fill small batches."""


class PipelineRequest(BatchRequest, kw_only=True, eq=False):
    """One request. It waits for the part with the role `part`, or takes a turn in a thread."""

    conversation: Conversation | None = None
    part: str = ""


Turned = tuple[PipelineRequest, Run | bytes]
"""After a turn: what a request asks next, or the frame that ends it."""
Left = Sequence[BatchRequest]
Ran = tuple[Station, Future[Left]]
"""A batch is over; left of it are the requests that take no turn now."""


class PipelineWorker:
    """Serves the pipeline that is `expected` on a connected socket."""

    def __init__(self, sock: socket.socket, expected: Expect, noted: BinaryIO) -> None:
        record = expected.record
        task = tasks.get(record.task)
        if not isinstance(task, PipelineTask) or not record.parts:
            raise InvalidInput(f"A model for {record.task} without parts is no pipeline.")
        decoders, parts = os.cpu_count() or 1, len(record.parts)
        self._line: Line[Turned | Ran] = Line(sock)
        self._record = record
        self._task: PipelineTask = task
        self._journal = RequestJournal(noted, parts + decoders)
        self._heartbeat = Heartbeat(
            lambda beat: self._line.send(encode(beat)),
            expected.heartbeat_s,
            expected.request_timeout_s,
            self._journal,
            parts,
        )
        self._stations = {
            part.role: Station(
                part.engine.name,
                part.signature,
                record.max_batch_size,
                self._heartbeat,
                self._journal,
                number,
            )
            for number, part in enumerate(record.parts)
        }
        self._engines = {role: ThreadPoolExecutor(1, f"engine-{role}") for role in self._stations}
        self._engine_slots = {role: number for number, role in enumerate(self._stations)}
        self._parts: dict[str, BoundPart] = {}
        self._slots = list(range(parts, parts + decoders))
        self._turns = ThreadPoolExecutor(decoders, "turn")
        self._queue: deque[tuple[PipelineRequest, Payload]] = deque()
        self._begun: set[int] = set()
        self._live: dict[int, PipelineRequest] = {}

    def warm(self) -> None:
        """Import what loading takes."""
        for station in self._stations.values():
            station.warm()

    def load(self) -> None:
        """Load all parts and say so. Raises LMaaSError when one cannot be loaded."""
        start = time.perf_counter()
        record = self._record
        self._heartbeat.start()
        for part in record.parts:
            folder = Path(part.folder)
            self._parts[part.role] = BoundPart(
                role=part.role,
                model=part.model,
                task=tasks.get(part.task).bind(folder),
                signature=part.signature,
            )
            self._stations[part.role].load(folder, part.precision, record.threads)
        loaded = Loaded(
            precision=record.precision,
            reason=record.reason,
            memory_bytes=resident_bytes(),
            load_s=time.perf_counter() - start,
        )
        self._line.send(encode(loaded))

    def serve(self, decoder: Decoder) -> None:
        """Answer requests until the server closes the socket or sends `Stop`."""
        line, stations = self._line, self._stations
        while True:
            data = line.wait(busy=any(station.runnable for station in stations.values()))
            if data is None:
                return
            for result in line.posted():
                self._collect(result)
            if data:
                self._handle(decoder.feed(data))
            self._fill()
            for role, station in stations.items():
                if station.runnable:
                    self._start_batch(role, station)
            self._heartbeat.queued = len(self._queue) + sum(map(len, stations.values()))
            self._heartbeat.running = sum(len(s.running) for s in stations.values())
            if line.is_over(idle=not self._live):
                return

    def close(self) -> None:
        """Release the parts."""
        for station in self._stations.values():
            station.close()

    def _handle(self, messages: list[AnyMessage]) -> None:
        for message in messages:
            match message:
                case Call(id=id_, payload=payload):
                    request = self._live[id_] = PipelineRequest(id=id_)
                    self._queue.append((request, payload))
                case Cancel(id=id_):
                    if cancelled := self._live.pop(id_, None):
                        self._cancel(cancelled)
                case Stop(deadline_s=deadline_s):
                    self._line.stop(deadline_s)
                case _:
                    raise AssertionError(f"The server sent {type(message).__name__}.")

    def _cancel(self, request: PipelineRequest) -> None:
        """Whoever has the request in hand drops it; one that waits for a part is in nobody's."""
        waits = request.state is State.WAITING
        if request.state in (State.WAITING, State.RUNNING):
            self._stations[request.part].cancel(request)
        request.state = State.CANCELLED
        if waits:
            self._drop(request)

    def _drop(self, request: PipelineRequest) -> None:
        """The request holds no images any more."""
        request.conversation = request.batch = request.whole = None
        self._begun.discard(request.id)

    def _fill(self) -> None:
        """Begin requests that wait, as long as few are begun."""
        while self._queue and len(self._begun) < MOST_BEGUN:
            request, payload = self._queue.popleft()
            if request.id in self._live:
                self._begun.add(request.id)
                self._turns.submit(self._turn, request, partial(self._open, request, payload))

    def _open(self, request: PipelineRequest, payload: Payload) -> Run:
        record = self._record
        request.conversation = conversation = self._task.converse(
            payload, self._parts, record.signature, record.limits
        )
        return next(conversation)

    def _turn(self, request: PipelineRequest, go_on: Callable[[], Run]) -> None:
        """One turn of a request, in a thread beside the engines."""
        outcome: Run | bytes = b""
        if request.state is not State.CANCELLED:
            slot = self._slots.pop()
            self._journal.begin(slot, [request.id])
            try:
                outcome = self._checked(go_on())
            except StopIteration as end:
                outcome = self._answered(request.id, end.value)
            except BaseException as error:  # noqa: BLE001 - the answer to this one request
                outcome = failure(request.id, error)
            self._journal.end(slot)
            self._slots.append(slot)
        self._line.post((request, outcome))

    def _checked(self, asked: Run) -> Run:
        assert asked.part in self._stations, f"There is no part {asked.part!r}."
        assert asked.batch.arrays or asked.batch.parts, "A part was asked for nothing."
        return asked

    def _answered(self, id_: int, answer: Answer) -> bytes:
        try:
            return encode(Done(id=id_, answer=answer))
        except ValueError as error:
            return failure(id_, error)

    def _start_batch(self, role: str, station: Station) -> None:
        requests = station.take()
        if not requests:
            return
        station.running = requests
        slot = self._engine_slots[role]
        future = self._engines[role].submit(self._run, station, requests, slot)
        future.add_done_callback(lambda done: self._line.post((station, done)))

    def _run(self, station: Station, requests: Sequence[BatchRequest], slot: int) -> Left:
        """Run a batch in the part's thread; each request goes on as soon as it has its outputs."""
        left = {request.id: request for request in requests}
        for request, outcome in station.run(requests, slot):
            assert isinstance(request, PipelineRequest)
            if request.state is State.CANCELLED:
                continue
            try:
                whole = outcome
                if not isinstance(outcome, BaseException):
                    ended = request.end_part(outcome)
                    if ended is None:
                        continue
                    whole = ended[1]
            except BaseException as error:  # noqa: BLE001 - raised where the part was asked
                whole = error
            request.state = State.DECODING
            del left[request.id]
            self._turns.submit(self._turn, request, partial(_go_on, request, whole))
        return list(left.values())

    def _collect(self, result: Turned | Ran) -> None:
        first, second = result
        if isinstance(first, Station):
            assert isinstance(second, Future)
            first.running = ()
            self._add_again(first, second.result())
            return
        if first.id not in self._live:
            self._drop(first)
        elif isinstance(second, bytes):
            del self._live[first.id]
            self._drop(first)
            self._line.send(second)
        else:
            assert isinstance(second, Run)
            first.part = second.part
            first.begin(second.batch)
            self._stations[second.part].add(first)

    def _add_again(self, station: Station, left: Left) -> None:
        """Requests of several batches, of which another is to run; those that were cancelled go."""
        for request in left:
            assert isinstance(request, PipelineRequest)
            if request.id in self._live:
                station.add(request)
            else:
                self._drop(request)


def _go_on(request: PipelineRequest, outcome: Tensors | BaseException) -> Run:
    assert request.conversation is not None
    if isinstance(outcome, BaseException):
        return request.conversation.throw(outcome)
    return request.conversation.send(outcome)
