"""One served version: the requests in its hands, and a supervisor that keeps a process for them.

Requests belong here and not to a process, so they outlive one that dies. Whoever was at work when
a process died is a suspect and runs next alone; who is at work at two deaths is quarantined.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from lmaas.config import Settings
from lmaas.errors import LMaaSError, QueueFull, TimedOut, Unavailable
from lmaas.generation_types import Ended
from lmaas.placement.base import Placement
from lmaas.runtime.messages import (
    AnyMessage,
    Beat,
    Began,
    Call,
    Cancel,
    Done,
    Failed,
    Finished,
    Parts,
    ServeRecord,
    Sound,
    Stop,
)
from lmaas.serving import vllm
from lmaas.serving.generation import Receiver
from lmaas.serving.launch import error_of, launch, renewed
from lmaas.serving.metrics import Metrics
from lmaas.serving.quarantine import Quarantine
from lmaas.serving.speech import Listener
from lmaas.serving.variant import variant_name
from lmaas.serving.worker_process import WorkerProcess
from lmaas.types import Answer, ModelVersion, Payload, Precision, WorkerStatus

log = logging.getLogger(__name__)

HEALTHY_S: Final = 30.0
"""A process that lived so long is not part of a series of crashes."""
BACK_OFF_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
STOP_GRACE_S: Final = 2.0
LONGEST_RETRY_S: Final = 60

LAUNCHES: Final = {"vllm": vllm.launch}
"""Engines that are no worker process of ours."""

Prepared = tuple[ServeRecord, asyncio.Future[None]]
"""What a process is told, and when its files are there and checked."""
WorkerState = Literal["loading", "ready", "draining", "failed"]


class InFlight(msgspec.Struct, kw_only=True, eq=False):
    """One request: who waits for it, until when, and how many processes died on it.

    `begun` says that its first token is there; `streamed` that pieces of it are out, so that it
    cannot be begun anew.
    """

    id: int
    payload: Payload
    future: asyncio.Future[Answer | Ended]
    deadline: float
    receiver: Receiver | None = None
    listener: Listener | None = None
    deaths: int = 0
    sent: bool = False
    streamed: bool = False
    begun: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class WorkerBackend:
    """Answers calls for `version`. Start it with `start`; `on_end` is told when it is over."""

    def __init__(
        self,
        version: ModelVersion,
        settings: Settings,
        placement: Placement,
        quarantine: Quarantine,
        metrics: Metrics,
    ) -> None:
        self.version = version
        self.pinned = False
        self.state: WorkerState = "loading"
        self.error: LMaaSError | None = None
        self.planned_bytes = 0
        self.last_used = asyncio.get_running_loop().time()
        self.precision: Precision = "f32"
        self.reason = ""
        self.variant_name = ""
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._placement = placement
        self._quarantine = quarantine
        self._metrics = metrics
        self._held: dict[int, InFlight] = {}
        self._cancelled: dict[int, Receiver | Listener] = {}
        self._ids = itertools.count(1)
        self._process: WorkerProcess | None = None
        self._open = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._first_load: asyncio.Future[None] = self._loop.create_future()
        self._engine = "openvino"
        self._variant: str | None = None
        self._memory_bytes = 0
        self._cache_used = 0.0
        self._requests = 0
        self._restarts = 0
        self._answered = 0
        self._answers_per_s = 0.0

    @property
    def live(self) -> bool:
        """Whether a loaded process is there now."""
        return self._process is not None and not self._process.closed.done()

    @property
    def lost(self) -> bool:
        """Whether the process that was there is gone and not yet replaced."""
        return self._first_load.done() and not self.live

    @property
    def depth(self) -> int:
        """Requests that wait or run."""
        return len(self._held)

    @property
    def cache_used(self) -> float:
        """The share of a language model's cache that is in use."""
        return self._cache_used if self.live else 0.0

    @property
    def memory_bytes(self) -> int:
        """What the process takes, or is expected to take where that is more."""
        return max(self.planned_bytes, self._memory_bytes)

    def start(
        self, prepare: Callable[[], Awaitable[Prepared]], on_end: Callable[["WorkerBackend"], None]
    ) -> None:
        """Make room with `prepare`, then keep a process alive until `stop`."""
        self._task = self._loop.create_task(self._supervise(prepare))
        self._task.add_done_callback(lambda _: on_end(self))

    async def loaded(self) -> None:
        """Wait for the first load. Raises what made it fail."""
        await asyncio.wait((self._first_load,))
        if self.error is not None:
            raise renewed(self.error)

    async def call(self, payload: Payload, receiver: Receiver | None = None) -> Answer:
        """The answer to `payload`; `receiver` hears of pieces that come before it.

        Cancelling the caller cancels the request.
        """
        answer = await self._run(payload, receiver)
        assert isinstance(answer, Answer)
        return answer

    async def generate(self, payload: Payload, receiver: Receiver) -> Ended:
        """Run a generation; `receiver` hears of its pieces. Cancelling the caller cancels it."""
        ended = await self._run(payload, receiver)
        assert isinstance(ended, Ended)
        return ended

    async def speak(self, payload: Payload, listener: Listener) -> Answer:
        """Speak a text; `listener` hears of its pieces. Cancelling the caller cancels it."""
        answer = await self._run(payload, None, listener)
        assert isinstance(answer, Answer)
        return answer

    async def _run(
        self, payload: Payload, receiver: Receiver | None, listener: Listener | None = None
    ) -> Answer | Ended:
        model = self.version.ref
        if self.error is not None:
            raise renewed(self.error)
        if self._stopping:
            raise Unavailable(f"{model} is being unloaded.", hint="Send the request again.")
        self._quarantine.check(self.version.tenant, model, payload)
        if len(self._held) >= self._settings.max_queue:
            raise QueueFull(
                f"{len(self._held)} requests wait for {model}; no more are taken.",
                retry_after_s=self._retry_after_s(),
                hint="Send it again after the time in Retry-After.",
            )
        now = self.last_used = self._loop.time()
        held = InFlight(
            id=next(self._ids),
            payload=payload,
            future=self._loop.create_future(),
            deadline=now + self._timeout_s(receiver or listener),
            receiver=receiver,
            listener=listener,
        )
        self._held[held.id] = held
        self._requests += 1
        if self._open:
            self._send(held)
        try:
            return await held.future
        finally:
            self.last_used = self._loop.time()
            if self._held.pop(held.id, None):
                self._send_cancel(held)
                waiting = receiver or listener
                if waiting is not None and held.sent and self.live:
                    self._cancelled[held.id] = waiting

    def tick(self, now: float, *, late: bool) -> None:
        """Once a heartbeat: find a silent process and requests over their time.

        `late` says that this process itself was held up, so that silence proves nothing.
        """
        process = self._process
        if process and self.live and not late and now - process.last_seen > process.patience_s:
            log.error(
                "The worker of %s gave no sign of life for %g s.",
                self.version.ref,
                process.patience_s,
            )
            process.kill()
        for held in [held for held in self._held.values() if held.deadline <= now]:
            self._end(
                held,
                TimedOut(
                    f"{self.version.ref} did not answer within "
                    f"{self._timeout_s(held.receiver or held.listener):g} s.",
                    hint="Ask for less at once, or raise "
                    f"{'generation' if held.receiver or held.listener else 'request'}_timeout_s.",
                ),
            )
            self._send_cancel(held)
        rate = self._answered / self._settings.heartbeat_s
        self._answers_per_s = (self._answers_per_s + rate) / 2 if self._answers_per_s else rate
        self._answered = 0

    async def stop(self, deadline: float) -> None:
        """Take no more calls, finish those held until the loop's time is `deadline`, then end."""
        self._stopping = True
        if self.state != "failed":
            self.state = "draining"
        futures = [held.future for held in self._held.values()]
        if futures:
            await asyncio.wait(futures, timeout=max(0.0, deadline - self._loop.time()))
        for held in list(self._held.values()):
            self._end(held, Unavailable(f"{self.version.ref} was unloaded before it answered."))
        if self._task is None:
            return
        if self._process and self.live:
            self._process.send(Stop(deadline_s=0.0))
            await asyncio.wait((self._process.closed,), timeout=STOP_GRACE_S)
        else:
            self._task.cancel()
        if self._process:
            self._process.kill()
        await asyncio.wait((self._task,))

    def status(self) -> WorkerStatus:
        """What `lmaas ps` shows."""
        return WorkerStatus(
            model=self.version.ref,
            tenant=self.version.tenant,
            state="loading" if self.state == "ready" and not self.live else self.state,
            engine=self._engine,
            precision=self.precision,
            variant=self._variant,
            reason=str(self.error) if self.error else self.reason,
            pid=self._process.pid if self._process and self.live else None,
            memory_bytes=self._memory_bytes,
            cache_used=self.cache_used,
            requests=self._requests,
            queued=len(self._held),
            restarts=self._restarts,
            pinned=self.pinned,
            idle_s=0.0 if self._held else self._loop.time() - self.last_used,
        )

    async def _supervise(self, prepare: Callable[[], Awaitable[Prepared]]) -> None:
        try:
            record, files = await prepare()
            self.precision, self.reason = record.precision, record.reason
            self._engine, self._variant = record.engine.name, record.variant
            self.variant_name = variant_name(
                self.version, record.engine.name, record.precision, record.variant
            )
            suspects: list[InFlight] = []
            crashes = 0
            while True:
                born = self._loop.time()
                process = self._process = await self._launch(record, files)
                await self._prove_innocent(suspects, process)
                self._release()
                await process.closed
                self._open = False
                at_work = await process.end()
                if self._stopping and not self._held:
                    return
                suspects = self._blame(at_work)
                crashes = 1 if self._loop.time() - born > HEALTHY_S else crashes + 1
                self._restarts += 1
                self._metrics.restart(self.version.ref)
                log.error(
                    "The worker of %s ended with code %s; it is started again.",
                    self.version.ref,
                    process.code,
                )
                await asyncio.sleep(BACK_OFF_S[min(crashes, len(BACK_OFF_S)) - 1])
        except LMaaSError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(Unavailable(f"{self.version.ref} is being unloaded."))
        except Exception as error:
            log.exception("Serving %s failed.", self.version.ref)
            self._fail(LMaaSError(f"{self.version.ref} cannot be served: {error}."))

    async def _launch(self, record: ServeRecord, files: asyncio.Future[None]) -> WorkerProcess:
        start = LAUNCHES.get(record.engine.name, launch)
        process = await start(record, self._settings, self._placement, self._receive, files)
        self._memory_bytes = process.loaded.memory_bytes
        if not self._stopping:
            self.state = "ready"
        if not self._first_load.done():
            self._first_load.set_result(None)
        log.info(
            "%s is loaded: %s (%s), %.2f s, %d MiB.",
            self.version.ref,
            process.loaded.precision,
            process.loaded.reason,
            process.loaded.load_s,
            process.loaded.memory_bytes >> 20,
        )
        return process

    def _receive(self, message: AnyMessage) -> None:
        match message:
            case Done(id=id_, answer=answer):
                held = self._held.pop(id_, None)
                if held and not held.future.done():
                    held.future.set_result(answer)
                self._answered += 1
            case Parts(items=items):
                for id_, delta in items:
                    streaming = self._held.get(id_)
                    if streaming is not None and streaming.receiver is not None:
                        streaming.streamed = True
                        streaming.receiver.part(delta)
            case Sound(id=id_, chars=chars, body=body):
                speaking = self._held.get(id_)
                if speaking is not None and speaking.listener is not None:
                    speaking.streamed = speaking.streamed or bool(body)
                    speaking.listener.sound(chars, body)
            case Began(id=id_, prompt=prompt):
                beginning = self._held.get(id_)
                if beginning is not None:
                    beginning.begun.set()
                    waiting = beginning.receiver or beginning.listener
                    if waiting is not None:
                        waiting.began(prompt)
            case Finished(id=id_, ended=ended):
                self._finish(id_, ended)
            case Failed(id=int(id_)):
                if failed := self._held.get(id_):
                    self._end(failed, error_of(message))
                self._answered += 1
            case Beat(memory_bytes=memory_bytes, batches=batches, cache_used=cache_used):
                self._memory_bytes = memory_bytes
                self._cache_used = cache_used
                self._metrics.batches(self.version.ref, batches)
                self._metrics.statistics.ran(self.version, batches)
            case _:
                log.error("The worker of %s sent %r.", self.version.ref, message)

    def _finish(self, id_: int, ended: Ended) -> None:
        held = self._held.pop(id_, None)
        if held is not None and not held.future.done():
            held.future.set_result(ended)
        receiver = self._cancelled.pop(id_, None)
        if receiver is not None:
            receiver.used(ended.usage)
        self._answered += 1

    async def _prove_innocent(self, suspects: list[InFlight], process: WorkerProcess) -> None:
        """Run the requests that were at work at the last death one by one, nothing beside them."""
        for held in suspects:
            if held.id in self._held and not process.closed.done():
                self._send(held)
                begun = asyncio.ensure_future(held.begun.wait())
                await asyncio.wait(
                    (held.future, begun, process.closed), return_when=asyncio.FIRST_COMPLETED
                )
                begun.cancel()

    def _release(self) -> None:
        """From now on, requests go to the process as they come."""
        self._open = True
        for held in self._held.values():
            if not held.sent:
                self._send(held)

    def _blame(self, at_work: set[int]) -> list[InFlight]:
        """Note who was at work; gives back all that are suspects now, earlier ones included."""
        self._cancelled.clear()
        for held in list(self._held.values()):
            held.sent = False
            held.begun.clear()
            if held.streamed:
                error = Unavailable(
                    f"The worker of {self.version.ref} ended while it was answering.",
                    hint="Send the request again.",
                )
                self._end(held, error)
        for held in [held for id_, held in self._held.items() if id_ in at_work]:
            held.deaths += 1
            if held.deaths > 1:
                log.error("A request ended two workers of %s: quarantined.", self.version.ref)
                model = self.version
                self._end(held, self._quarantine.add(model.tenant, model.ref, held.payload))
        return [held for held in self._held.values() if held.deaths]

    def _fail(self, error: LMaaSError) -> None:
        self.state = "failed"
        self.error = error
        self._open = False
        if self._process:
            self._process.kill()
        for held in list(self._held.values()):
            self._end(held, renewed(error))
        if not self._first_load.done():
            self._first_load.set_result(None)

    def _send(self, held: InFlight) -> None:
        assert self._process is not None
        held.sent = True
        self._process.send(Call(id=held.id, payload=held.payload))

    def _send_cancel(self, held: InFlight) -> None:
        if held.sent and self._process and self.live:
            self._process.send(Cancel(id=held.id))

    def _end(self, held: InFlight, error: LMaaSError) -> None:
        self._held.pop(held.id, None)
        if not held.future.done():
            held.future.set_exception(error)

    def _timeout_s(self, receiver: Receiver | Listener | None) -> float:
        settings = self._settings
        return settings.request_timeout_s if receiver is None else settings.generation_timeout_s

    def _retry_after_s(self) -> int:
        if not self._answers_per_s:
            return 1
        return min(LONGEST_RETRY_S, max(1, math.ceil(len(self._held) / self._answers_per_s)))
