"""Jobs that the process of their runner does itself: it asks others and starts sandboxed children.

Knows the queue; what each kind does, it is told. A job that is cut off begins again, and goes on
from what it left itself (a pull from its partial files).
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from lmaas.errors import LMaaSError, StorageFull, Unavailable
from lmaas.job import LOG_FILE, Job, JobEvent, JobKind, JobState
from lmaas.jobs.claims import Claim, Claims, Heard, LeaseLost
from lmaas.jobs.inputs import Inputs
from lmaas.jobs.lane import POLL_S, Lane, job_error
from lmaas.jobs.rows import message
from lmaas.jobs.store import PAUSABLE
from lmaas.placement import left
from lmaas.placement.waiting import to_end
from lmaas.registry.storage import Revision

log = logging.getLogger(__name__)

STEP: Final = 0.005
"""How much more must be done (0 to 1) until it is told again: each is a row for good."""
LONGEST_SILENCE_S: Final = 30.0
MAX_CRASHES: Final = 3
"""So many servers may end, other than by being stopped, while they are at one job."""


MADE: Final[Mapping[JobKind, str]] = {
    "pull": "The model is registered as",
    "import": "The model is registered as",
    "compress": "The variant is registered with",
}
"""What the last event of a job says before the name of its model."""


class Reporter:
    """Where the work of one job tells how far it is, from any thread."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / LOG_FILE
        self._lock = threading.Lock()
        self._waiting: list[JobEvent] = []
        self._told_at, self._told_done, self._stage = 0.0, -1.0, ""

    def progress(self, text: str, stage: str, done: float, data: Mapping[str, Any]) -> None:
        """`done` (0 to 1) of `stage` is behind it; told as often as it is worth an event."""
        now = time.time()
        more = done >= self._told_done + STEP or done == 1 > self._told_done
        if stage == self._stage and not more and now - self._told_at < LONGEST_SILENCE_S:
            return
        self._told_at, self._told_done, self._stage = now, done, stage
        event = JobEvent(type="metrics", message=text, created_at=now, data=dict(data))
        self.write(text)
        with self._lock:
            self._waiting.append(event)

    def write(self, text: str) -> None:
        """A line of the job's log."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        # No work fails for want of room for its log.
        with contextlib.suppress(OSError), left.appended(self.log) as file:
            file.write(f"{at} {text}\n".encode("utf-8", "replace"))

    def waiting(self) -> list[JobEvent]:
        """What is to be written to the database."""
        with self._lock:
            return list(self._waiting)

    def written(self, count: int) -> None:
        """The first `count` of them are."""
        with self._lock:
            del self._waiting[:count]


Succeed = Callable[[sa.Connection, str], None]
Work = Callable[[Job, Reporter, Succeed], Awaitable[None]]
"""Does a job; `Succeed` is called in the transaction in which its result comes to be."""


class InProcess(Lane):
    """Runs jobs whose kinds are the keys of `works`."""

    def __init__(
        self,
        folder: Path,
        claims: Claims,
        revision: Revision,
        works: Mapping[JobKind, Work],
        *,
        max_running: int,
        max_per_tenant: int,
        only: str | None = None,
    ) -> None:
        super().__init__(
            claims,
            revision,
            kinds=tuple(works),
            max_running=max_running,
            max_per_tenant=max_per_tenant,
            only=only,
        )
        self._folder = folder
        self._inputs = Inputs(folder)
        self._works = works

    async def _run(self, claim: Claim, job: Job) -> None:
        ending = threading.Event()
        try:
            await self._do(claim, job, ending)
        except LeaseLost:
            if ending.is_set():
                # Its end was written while something else cut it off.
                await to_end(asyncio.to_thread(self._inputs.drop, job.id))
            else:
                log.warning("The job %s is not this runner's any more.", job.id)
        except Exception as error:
            log.exception("The job %s failed", job.id)
            if not isinstance(error, LMaaSError):
                error = LMaaSError(f"{type(error).__name__}: {error}")
            with contextlib.suppress(LeaseLost, LMaaSError):
                await asyncio.to_thread(self._claims.fail, claim, job_error(error))
                await to_end(asyncio.to_thread(self._inputs.drop, job.id))

    async def _do(self, claim: Claim, job: Job, ending: threading.Event) -> None:
        """Do the job; `ending` is set in the transaction that writes its success."""
        folder = self._folder / job.id
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        if (await asyncio.to_thread(self._claims.write, claim)).crashes >= MAX_CRASHES:
            raise Unavailable(
                f"{MAX_CRASHES} servers ended while they were at this job.",
                hint="Look into the server's log; then start it again.",
            )
        reporter = Reporter(folder)

        def succeed(connection: sa.Connection, ref: str) -> None:
            self._claims.succeed(connection, claim, ref, reporter.waiting(), made=MADE[job.kind])
            ending.set()

        work = asyncio.ensure_future(self._works[job.kind](job, reporter, succeed))
        asked: str | None = None
        try:
            asked = await self._watch(claim, job, work, reporter)
        except asyncio.CancelledError:
            await _stop(work, ending)
            if await self._succeeded(work, job):
                return
            with contextlib.suppress(LeaseLost, LMaaSError):
                told = "The server stops; the job waits for the next."
                await to_end(self._release(claim, "queued", told))
            raise
        except LeaseLost:
            await _stop(work, ending)
            if not await self._succeeded(work, job):
                raise
            return
        if await self._succeeded(work, job):
            return
        await self._end(claim, job, work, reporter, asked)

    async def _watch(
        self, claim: Claim, job: Job, work: asyncio.Future[None], reporter: Reporter
    ) -> str | None:
        """Until the work has ended: what it was asked for meanwhile. Raises LeaseLost."""
        asked: str | None = None
        while not work.done():
            await asyncio.wait((work,), timeout=POLL_S)
            if work.done():
                break
            if self._stopping and asked is None and job.kind in PAUSABLE:
                asked = "stop"
                work.cancel()
            with contextlib.suppress(StorageFull, Unavailable):
                heard = await asyncio.to_thread(self._flush, claim, reporter)
                if heard.wanted is not None and asked is None:
                    asked = heard.wanted
                    work.cancel()
        return asked

    def _flush(self, claim: Claim, reporter: Reporter) -> Heard:
        events = reporter.waiting()
        heard = self._claims.write(claim, events)
        reporter.written(len(events))
        return heard

    async def _succeeded(self, work: asyncio.Future[None], job: Job) -> bool:
        """Whether it has; then nothing that came with it is needed any more."""
        if work.cancelled() or work.exception() is not None:
            return False
        await to_end(asyncio.to_thread(self._inputs.drop, job.id))
        return True

    async def _end(
        self,
        claim: Claim,
        job: Job,
        work: asyncio.Future[None],
        reporter: Reporter,
        asked: str | None,
    ) -> None:
        """Write what became of work that did not succeed. Raises LeaseLost."""
        heard = await asyncio.to_thread(self._flush, claim, reporter)
        if heard.wanted == "cancel":
            await self._release(claim, "cancelled", "The job is cancelled.")
        elif work.cancelled() and asked == "pause":
            await self._release(claim, "paused", "The job is paused.")
            return
        elif work.cancelled():
            await self._release(claim, "queued", "The server stops; the job waits for the next.")
            return
        else:
            error = work.exception()
            if not isinstance(error, LMaaSError):
                log.error("The job %s failed", job.id, exc_info=error)
                error = LMaaSError(f"{type(error).__name__}: {error}")
            await asyncio.to_thread(reporter.write, str(error))
            await asyncio.to_thread(self._claims.fail, claim, job_error(error))
        await to_end(asyncio.to_thread(self._inputs.drop, job.id))

    async def _release(self, claim: Claim, state: JobState, text: str) -> None:
        await asyncio.to_thread(self._claims.release, claim, state, message(text))


async def _stop(work: asyncio.Future[None], ending: threading.Event) -> None:
    """Cut work off, unless it is as good as done; it ends its threads and children first."""
    if not ending.is_set():
        work.cancel()
    await asyncio.wait((work,))
