"""Data-parallel workers of one machine: who they are, and how they add up arrays.

Worker 0 is the run's own process and starts the others. Small arrays are added by worker 0 over
Unix sockets. Of large ones each worker writes its own into memory that all share, adds up one part
of everyone's in the order of the ranks, and reads the whole: every worker gets the same bits, every
run the same sums, and no network is needed. A worker that dies closes its sockets, which the others
see at once. Knows no framework and no recipe.
"""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import Unavailable

VARIABLE: Final = "LMAAS_TRAINING_GROUP"
"""Tells a started worker its place: a `Place` in JSON."""
SMALL_BYTES: Final = 4096
ALIGNED_BYTES: Final = 4096
END_S: Final = 10.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker stands: its socket to worker 0 and the shared memory, as open files."""

    rank: int
    workers: int
    link: int
    memory: int


class Workers:
    """A `base.Group` of several processes, seen from one of them."""

    def __init__(
        self,
        rank: int,
        workers: int,
        links: Sequence[socket.socket],
        memory: int,
        children: Sequence[subprocess.Popen[bytes]] = (),
    ) -> None:
        self.rank, self.workers = rank, workers
        self._links = list(links)
        self._memory = memory
        self._children = list(children)
        self._slot_bytes = 0
        self._map: mmap.mmap | None = None

    def sum(self, array: np.ndarray) -> None:
        """See `base.Group.sum`."""
        assert array.flags.c_contiguous
        assert array.dtype in (np.float32, np.float64)
        if array.nbytes <= SMALL_BYTES:
            array[...] = self._sum_small(array)
            return
        self._reserve(array.nbytes)
        slots = [self._slot(i, array) for i in range(self.workers + 1)]
        flat = array.reshape(-1)
        slots[self.rank][:] = flat
        self._meet()
        first = array.size * self.rank // self.workers
        after = array.size * (self.rank + 1) // self.workers
        part = slots[-1][first:after]
        part[:] = slots[0][first:after]
        for slot in slots[1:-1]:
            part += slot[first:after]
        # Nobody writes into the last slot before all have met again, in the next sum.
        self._meet()
        flat[:] = slots[-1]

    def end(self) -> None:
        """Let the other workers end; what does not is killed."""
        for link in self._links:
            link.close()
        for child in self._children:
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        os.close(self._memory)

    def _sum_small(self, array: np.ndarray) -> np.ndarray:
        own = array.tobytes()
        if self.rank:
            self._send(0, own)
            total = self._receive(0, len(own))
        else:
            added = array.copy()
            for i in range(len(self._links)):
                theirs = np.frombuffer(self._receive(i, len(own)), array.dtype)
                added += theirs.reshape(array.shape)
            total = added.tobytes()
            for i in range(len(self._links)):
                self._send(i, total)
        return np.frombuffer(total, array.dtype).reshape(array.shape)

    def _meet(self) -> None:
        self._sum_small(np.zeros(1, np.float32))

    def _reserve(self, size_bytes: int) -> None:
        """Shared memory with a slot for each worker and one for the sum."""
        if size_bytes <= self._slot_bytes:
            return
        self._slot_bytes = -(-size_bytes // ALIGNED_BYTES) * ALIGNED_BYTES
        length = self._slot_bytes * (self.workers + 1)
        if self.rank == 0:
            os.ftruncate(self._memory, length)
        self._meet()
        self._map = mmap.mmap(self._memory, length)

    def _slot(self, number: int, like: np.ndarray) -> np.ndarray:
        assert self._map is not None
        offset = self._slot_bytes * number
        return np.frombuffer(self._map, like.dtype, like.size, offset)

    def _send(self, number: int, data: bytes) -> None:
        try:
            self._links[number].sendall(data)
        except OSError:
            raise self._lost(number) from None

    def _receive(self, number: int, size: int) -> bytes:
        try:
            data = self._links[number].recv(size, socket.MSG_WAITALL)
        except OSError:
            raise self._lost(number) from None
        if len(data) < size:
            raise self._lost(number)
        return data

    def _lost(self, number: int) -> Unavailable:
        if self.rank:
            return Unavailable("Worker 1, which leads the run, has ended.")
        how = "has gone"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._children[number].wait(END_S)
            how = (
                f"was ended by {signal.Signals(-code).name}"
                if code < 0
                else f"ended with exit code {code}"
            )
        return Unavailable(
            f"Worker {number + 2} of {self.workers} {how} in the middle of the run.",
            hint="The job's log has what it said. The run can be resumed from its checkpoint.",
        )


@contextlib.contextmanager
def lead(workers: int, command: Sequence[str]) -> Iterator[Workers]:
    """Be worker 0, and run `command` as each of the others until the block ends.

    They belong to this process's group, and `join` there gives them their place.
    """
    memory = _shared_file()
    pairs = [socket.socketpair() for _ in range(workers - 1)]
    children = []
    for rank, (_, theirs) in enumerate(pairs, start=1):
        place = Place(rank=rank, workers=workers, link=theirs.fileno(), memory=memory)
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: msgspec.json.encode(place).decode()},
            pass_fds=(theirs.fileno(), memory),
        )
        children.append(child)
        theirs.close()
    group = Workers(0, workers, [ours for ours, _ in pairs], memory, children)
    try:
        yield group
    finally:
        group.end()


@contextlib.contextmanager
def join() -> Iterator[Workers]:
    """The group that this process was started for by `lead`."""
    place = msgspec.json.decode(os.environ.pop(VARIABLE), type=Place)
    link = socket.socket(fileno=place.link)
    group = Workers(place.rank, place.workers, [link], place.memory)
    try:
        yield group
    finally:
        group.end()


def _shared_file() -> int:
    """An open file without a name, in memory."""
    return os.memfd_create("lmaas-training")
