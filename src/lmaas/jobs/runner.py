"""The runner of training: an asyncio task inside the server that gives each job its own process.

Knows the queue through `Claims`, processes through a `Placement`; what a result becomes, and where
a base model comes from, it is told. All that it writes carries its claim's fence.
"""

import asyncio
import contextlib
import logging
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lmaas.errors import DoesNotFit, LMaaSError, PayloadTooLarge, StorageFull, Unavailable
from lmaas.job import PAUSED_EXIT, RESULT_FOLDER, Job, JobError, JobState
from lmaas.jobs import process
from lmaas.jobs.child import DONE_FILE, Task, message
from lmaas.jobs.claims import Claim, Claims, Heard, LeaseLost
from lmaas.jobs.lane import POLL_S, Lane, job_error
from lmaas.placement import left
from lmaas.placement.base import JobHandle, Placement
from lmaas.placement.waiting import to_end
from lmaas.registry.storage import Revision
from lmaas.types import TENANT

log = logging.getLogger(__name__)
WEIGH_S = 2.0
"""So often the disk that a running job takes is looked at."""
MAX_CRASHES = 3
"""So often a job may crash without a new checkpoint in between."""
CANCEL_GRACE_S = 5.0
PAUSE_GRACE_S = 60.0

Succeed = Callable[[sa.Connection, str], None]
Publish = Callable[[Job, Path, Succeed], Awaitable[None]]
"""Register the package in a folder; `Succeed` is called in the transaction that does."""
Locate = Callable[[Job], tuple[dict[str, Any], list[Path]]]
"""The recipe of a job with paths in place of the ids of uploaded files, and what it must read."""
Unpack = Callable[[Job, Path], bool]
"""Put the base model of a job into a folder; whether it has one."""


class Runner(Lane):
    """Runs the training of one home. One lives at a time: its server holds the home's lock."""

    def __init__(
        self,
        folder: Path,
        claims: Claims,
        revision: Revision,
        placement: Placement,
        *,
        publish: Publish,
        unpack: Unpack,
        locate: Locate,
        max_running: int,
        max_per_tenant: int,
        memory_bytes: int,
        tenant_memory_bytes: int = 0,
        disk_bytes: int,
        required: bool = False,
        command: Sequence[str] = process.COMMAND,
        cancel_grace_s: float = CANCEL_GRACE_S,
        pause_grace_s: float = PAUSE_GRACE_S,
    ) -> None:
        super().__init__(
            claims,
            revision,
            kinds=("train",),
            max_running=max_running,
            max_per_tenant=max_per_tenant,
        )
        self._folder = folder
        self._placement = placement
        self._publish = publish
        self._unpack = unpack
        self._locate = locate
        self._memory_bytes = memory_bytes
        self._tenant_memory_bytes = tenant_memory_bytes
        self._disk_bytes = disk_bytes
        self._required = required
        self._command = command
        self._grace_s = {"cancel": cancel_grace_s, "pause": pause_grace_s}

    # One job

    async def _run(self, claim: Claim, job: Job) -> None:
        folder = self._folder / job.id
        try:
            await asyncio.to_thread(self._prepare, job, folder)
            memory_bytes = self._memory_of(job.tenant)
            if (folder / DONE_FILE).exists() or await self._work_on(claim, folder, memory_bytes):
                await self._register(claim, job, folder)
        except LeaseLost:
            log.warning("The job %s is not this server's any more.", job.id)
        except asyncio.CancelledError:
            with contextlib.suppress(LeaseLost, LMaaSError):
                release = self._release(claim, "queued", "The server stops.")
                await to_end(release)
            raise
        except LMaaSError as error:
            await self._fail(claim, folder, job_error(error))
        except Exception as error:
            log.exception("The job %s failed", job.id)
            told = LMaaSError(f"{type(error).__name__}: {error}")
            await self._fail(claim, folder, job_error(told))

    def _prepare(self, job: Job, folder: Path) -> None:
        base = process.base_folder(folder)
        has_base = True
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not base.exists():
            half = base.with_name(f"{base.name}.new")
            shutil.rmtree(half, ignore_errors=True)
            has_base = self._unpack(job, half)
            if has_base:
                half.rename(base)
        self._placement.end_job(folder)
        process.prepare(folder)
        recipe, reads = self._locate(job)
        task = Task(
            id=job.id,
            kind="train",
            recipe=recipe,
            reads=tuple(map(str, (*reads, *([base] if has_base else [])))),
            base=str(base) if has_base else None,
            memory_bytes=self._memory_of(job.tenant),
            disk_bytes=self._disk_bytes,
            required=self._required,
        )
        process.tell(folder, task)

    async def _work_on(self, claim: Claim, folder: Path, memory_bytes: int) -> bool:
        """Run the job's process to its end and write what became of it; True: it is done."""
        child = await asyncio.to_thread(self._placement.start_job, folder, self._command)
        try:
            asked, too_big = await self._watch(claim, folder, child, memory_bytes)
        finally:
            await to_end(asyncio.to_thread(child.kill))
        code = child.poll()
        heard = await asyncio.to_thread(self._drain, claim, folder)
        if code == 0 and (folder / DONE_FILE).exists() and heard.wanted != "cancel":
            return True
        if heard.wanted == "cancel" or asked == "cancel":
            await self._release(claim, "cancelled", "The job is cancelled.")
            await asyncio.to_thread(process.tidy, folder)
            return False
        if too_big is not None:
            raise too_big
        error = process.read_error(folder)
        if error is not None and error.code == Unavailable.code:
            await self._crashed(claim, folder, error.message, heard.crashes + 1)
        elif error is not None:
            await self._fail(claim, folder, error)
        elif asked == "pause" and heard.wanted == "pause":
            await self._release(claim, "paused", "The job is paused.")
        elif asked == "pause" or code == PAUSED_EXIT:
            await self._release(claim, "queued", "The server stops; the job waits for the next.")
        else:
            how = f"code {code}" if code is None or code >= 0 else signal.Signals(-code).name
            how = f"Its process ended with {how}."
            await self._crashed(claim, folder, how, heard.crashes + 1)
        return False

    def _memory_of(self, tenant: str) -> int:
        """What a job of `tenant` may use."""
        bound = 0 if tenant == TENANT else self._tenant_memory_bytes
        return min(self._memory_bytes, bound) if bound else self._memory_bytes

    async def _watch(
        self, claim: Claim, folder: Path, child: JobHandle, memory_bytes: int
    ) -> tuple[str | None, LMaaSError | None]:
        """Until the process ends or is ended: what it was asked for, and why it is ended."""
        asked: str | None = None
        deadline = float("inf")
        weighed = time.monotonic()
        while child.poll() is None:
            with contextlib.suppress(StorageFull, Unavailable):
                heard = await asyncio.to_thread(self._listen, claim, folder)
                wanted = heard.wanted or ("pause" if self._stopping else None)
                if wanted is not None and wanted != asked:
                    asked = wanted
                    await asyncio.to_thread(process.ask, folder, wanted)
                    deadline = time.monotonic() + self._grace_s[wanted]
            used = await asyncio.to_thread(child.memory_bytes)
            if used > memory_bytes:
                return asked, DoesNotFit(
                    f"The job used {used >> 20} MiB of memory; it may use "
                    f"{memory_bytes >> 20} MiB.",
                    hint="Use a smaller batch or model, or raise job_memory_bytes.",
                )
            if time.monotonic() - weighed > WEIGH_S:
                weighed = time.monotonic()
                used = await asyncio.to_thread(left.size, folder)
                if used > self._disk_bytes:
                    return asked, PayloadTooLarge(
                        f"The job's folder took {used >> 20} MiB of disk; it may take "
                        f"{self._disk_bytes >> 20} MiB.",
                        hint="Keep fewer checkpoints (checkpoints.keep), or raise job_disk_bytes.",
                    )
            if time.monotonic() > deadline:
                return asked, None
            await asyncio.sleep(POLL_S)
        return asked, None

    def _listen(self, claim: Claim, folder: Path) -> Heard:
        heard = self._claims.write(claim)
        events, offset = process.read_events(folder, heard.offset)
        if offset != heard.offset:
            heard = self._claims.write(claim, events, offset=offset)
        return heard

    def _drain(self, claim: Claim, folder: Path) -> Heard:
        """All that a process that has ended had told."""
        heard = self._listen(claim, folder)
        while True:
            again = self._listen(claim, folder)
            if again.offset == heard.offset:
                return again
            heard = again

    async def _register(self, claim: Claim, job: Job, folder: Path) -> None:
        """Make the result a version of its model, in one transaction with the job's end."""

        def succeed(connection: sa.Connection, ref: str) -> None:
            self._claims.succeed(connection, claim, ref)

        try:
            await self._publish(job, folder / RESULT_FOLDER, succeed)
        except LeaseLost:
            heard = await asyncio.to_thread(self._claims.write, claim)
            if heard.wanted != "cancel":
                raise
            await self._release(claim, "cancelled", "The job is cancelled.")
        await asyncio.to_thread(process.tidy, folder)

    async def _release(self, claim: Claim, state: JobState, text: str) -> None:
        await asyncio.to_thread(self._claims.release, claim, state, message(text))

    async def _fail(self, claim: Claim, folder: Path, error: JobError) -> None:
        with contextlib.suppress(LeaseLost):
            await asyncio.to_thread(self._claims.fail, claim, error)
            await asyncio.to_thread(process.tidy, folder)

    async def _crashed(self, claim: Claim, folder: Path, how: str, times: int) -> None:
        """Start a job again that may yet succeed: its process, or a worker of it, was lost."""
        if times < MAX_CRASHES:
            told = message(f"The job is started again. {how}", "warn")
            await asyncio.to_thread(self._claims.release, claim, "queued", told, crashed=True)
            return
        tail = await asyncio.to_thread(process.log_tail, folder)
        error = JobError(
            code=LMaaSError.code,
            message=f"The job crashed {times} times without a new checkpoint. {how} {tail}".strip(),
            hint="`lmaas jobs logs` shows all that it printed.",
        )
        await self._fail(claim, folder, error)
