"""Where processes run: what the pool, the runner of jobs and the workshop ask of one machine.

A `Placement` stands for one node: it says what the node has, brings files there, starts processes,
and ends all that it has started. `placement.local` is the node that this process runs on. Several
nodes are several placements, each with a pool that plans its memory. Callers know no other way to
start a process, and nothing here knows what a process works on.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lmaas.types import Record

if TYPE_CHECKING:  # a sandboxed child imports this module, and needs no messages
    from lmaas.runtime.messages import AnyMessage


class NodeInfo(Record, frozen=True, kw_only=True):
    """What a node has."""

    name: str
    memory_bytes: int
    """What models and jobs may take of its memory, unless a setting says otherwise."""


class ChildBounds(Record, frozen=True, kw_only=True):
    """What a sandboxed child may use. It sets these bounds itself before it reads its request."""

    reads: tuple[str, ...] = ()
    """Absolute paths that it may read beside its scratch folder."""
    memory_bytes: int
    disk_bytes: int
    timeout_s: float
    work: str = "Compiling"
    """What errors call it."""
    required: bool = False
    """Whether it refuses to run where a part of the isolation is missing."""


class Shipment(Protocol):
    """Files on their way to a node."""

    folder: Path
    """Where the node's processes find them."""
    arrived: asyncio.Future[None]
    """Done when all of them are there and checked; fails with what went wrong."""

    def remove(self) -> None:
        """Delete them from the node, once they no longer arrive."""


class MessageChannel(Protocol):
    """The messages between the server and one worker."""

    connected: asyncio.Future[None]
    """Done when the worker has connected."""
    closed: asyncio.Future[None]
    """Done when it can no longer be talked to."""
    last_seen: float
    """The loop's time of the last sign of life."""

    def send(self, message: "AnyMessage") -> None:
        """Send a message soon. One that is closed drops it."""


class WorkerHandle(Protocol):
    """A worker's process. It knows no model before it is told one over its channel."""

    channel: MessageChannel

    @property
    def pid(self) -> int:
        """Its number on its node."""

    @property
    def code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""

    async def wait(self) -> int:
        """Its exit code, once it has ended."""

    def kill(self) -> None:
        """End it and its process group now."""

    async def end(self) -> set[int]:
        """Kill it and clear away all that is left of it; the ids of the calls it was working on."""


class JobHandle(Protocol):
    """A job's process, which leads a group of its own. Synchronous: call it in a thread."""

    @property
    def pid(self) -> int:
        """Its number on its node."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def memory_bytes(self) -> int:
        """Resident memory of the whole group; pages that several share count for each."""

    def kill(self) -> None:
        """End the group and all that it has started, and wait until it is gone."""


class ProgramHandle(Protocol):
    """A program of another environment, with all its processes."""

    ended: asyncio.Future[int]

    @property
    def pid(self) -> int:
        """Its number on its node."""

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""

    def memory_bytes(self) -> int:
        """What all its processes take; what they share counts once."""

    def kill(self) -> None:
        """Begin to end all of it."""

    async def end(self) -> None:
        """Kill it and wait until nothing of it is left."""


class Placement(Protocol):
    """One node. Whatever it has started ends when its server does, however that ends."""

    @property
    def node(self) -> NodeInfo:
        """What the node has."""

    async def open(self) -> None:
        """Clear away what killed servers left. Workers can be started from now on."""

    async def close(self) -> None:
        """Delete what was shipped. Only once all workers have ended."""

    def ship(self, fill: Callable[[Path], None]) -> Shipment:
        """Bring the files that `fill`, called in a thread, writes into an empty folder."""

    async def start_worker(
        self,
        files: Sequence[Path],
        on_message: "Callable[[AnyMessage], None]",
        *,
        memory_bytes: int,
        required: bool = False,
    ) -> WorkerHandle:
        """Start a worker that reads `files`, folders of shipments, and fills so much memory.

        Its messages go to `on_message`. It is isolated; with `required` it ends where a part of the
        isolation is missing. Raises OSError.
        """

    def socket_path(self) -> Path:
        """A path for a socket that a program of this node listens on; no other gets it."""

    async def start_program(
        self, argv: Sequence[str], environ: Mapping[str, str], output: asyncio.Protocol
    ) -> ProgramHandle:
        """Start a program of another environment, which has loopback alone as its network.

        It gets `environ` and nothing of ours. What it writes goes to `output`. Raises OSError.
        """

    def start_job(self, folder: Path, command: Sequence[str]) -> JobHandle:
        """Start `command` with a job's `folder` as its last argument and working directory.

        What it prints is added to the job's log. Raises OSError.
        """

    def end_job(self, folder: Path) -> None:
        """End what an earlier server left of a job. Raises TimeoutError when it does not end."""

    def run_child(
        self,
        module: str,
        request: bytes,
        *,
        scratch: Path,
        bounds: ChildBounds,
        stop: threading.Event | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """The reply of `module.run(request)` in a sandboxed child that writes `scratch` alone.

        `heard` gets each line that the child writes into `scratch`/progress. Raises the child's own
        LMaaSError, TimedOut or PayloadTooLarge at a bound, InvalidInput with the end of its log
        when it dies, and Cancelled soon after `stop` is set.
        """
