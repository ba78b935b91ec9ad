"""Jobs of some kinds, claimed while there is room and run until they end. How is a subclass's.

All that is written about a job carries its claim's fence. Lanes of different kinds do not wait for
each other: a download goes on beside a run of training.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from lmaas.errors import LMaaSError
from lmaas.job import Job, JobError, JobKind
from lmaas.jobs.claims import LEASE_S, Claim, Claims
from lmaas.registry.storage import Revision
from lmaas.supervision import Supervisor

log = logging.getLogger(__name__)
POLL_S: Final = 0.2


class Lane(ABC):
    """Runs jobs of its kinds. `only` is the one job that is run, where it is not the queue."""

    def __init__(
        self,
        claims: Claims,
        revision: Revision,
        *,
        kinds: Sequence[JobKind],
        max_running: int,
        max_per_tenant: int,
        only: str | None = None,
    ) -> None:
        self._claims = claims
        self._revision = revision
        self._kinds = kinds
        self._max_running = max_running
        self._max_per_tenant = max_per_tenant
        self._only = only
        self._owner = secrets.token_hex(8)
        self._running: dict[Claim, asyncio.Task[None]] = {}
        self._work: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Queue what an earlier owner had running, and begin. Only for who knows it to be gone."""
        requeued = await asyncio.to_thread(
            self._claims.requeue, all_of_others=self._owner, kinds=self._kinds, only=self._only
        )
        # Who goes on with one job of its own expects nothing else.
        if requeued and self._only is None:
            log.warning("Queued again: %s", ", ".join(requeued))
        keep = (supervisor or Supervisor()).keep
        self._work = keep(f"jobs.{self._kinds[0]}", self._keep_working)

    async def close(self, timeout_s: float) -> None:
        """Stop. Jobs that have not ended or paused within `timeout_s` are cut off.

        All of them are queued again, and go on from where they can.
        """
        self._stopping = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))
        tasks = list(self._running.values())
        if not tasks:
            return
        keeping = asyncio.create_task(self._keep_leases())
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        keeping.cancel()

    @abstractmethod
    async def _run(self, claim: Claim, job: Job) -> None:
        """Do one job and write what became of it."""

    async def _keep_working(self) -> None:
        """Claim jobs while there is room, and keep the leases of those that run."""
        seen, room, renewed = -1, True, time.monotonic()
        while True:
            try:
                version = self._revision()
                free = len(self._running) < self._max_running
                if free and (version != seen or not room):
                    while len(self._running) < self._max_running and await self._claim():
                        pass
                    # Only now: what could not be claimed, on a full disk, is tried again.
                    seen = version
                room = free
                if time.monotonic() - renewed > LEASE_S / 3:
                    renewed = time.monotonic()
                    await self._renew()
                    await asyncio.to_thread(
                        self._claims.requeue, kinds=self._kinds, only=self._only
                    )
            except LMaaSError as error:
                log.error("The queue of jobs cannot be read or written: %s", error)
            await asyncio.sleep(POLL_S)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(LMaaSError):
                await self._renew()

    async def _claim(self) -> bool:
        claimed = await asyncio.to_thread(
            self._claims.claim,
            self._owner,
            self._max_per_tenant or self._max_running,
            kinds=self._kinds,
            only=self._only,
        )
        if claimed is None:
            return False
        claim, job = claimed
        task = asyncio.create_task(self._run(claim, job))
        self._running[claim] = task
        task.add_done_callback(lambda _: self._running.pop(claim))
        return True

    async def _renew(self) -> None:
        if not self._running:
            return
        lost = await asyncio.to_thread(self._claims.renew, list(self._running))
        for claim in lost:
            if claim in self._running:
                self._running[claim].cancel()


def job_error(error: LMaaSError) -> JobError:
    """An error as a job's row keeps it."""
    return JobError(
        code=error.code,
        message=error.message,
        hint=error.hint,
        param=error.param,
        retry_after_s=getattr(error, "retry_after_s", None),
    )
