"""What a worker's main loop waits for: its server's messages, and results of threads beside it."""

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

READ_BYTES: Final = 1 << 20
SPIN_S: Final = 0.00015 if (os.cpu_count() or 1) > 1 else 0.0
"""After work, a sleeping worker would cost the next request more time than a small model does; who
else wants the core gets it."""


class Line(Generic[T]):
    """The worker's end of a connected socket, and results of type `T` that threads hand over.

    `send` and `post` are for any thread, everything else for the main one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._posted: deque[T] = deque()
        self._wake_read, self._wake_write = os.pipe()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._stop_at: float | None = None

    def send(self, frames: bytes) -> None:
        """Send whole frames."""
        with self._sending:
            self._sock.sendall(frames)

    def post(self, result: T) -> None:
        """Hand a result to the main loop."""
        self._posted.append(result)
        os.write(self._wake_write, b"\0")

    def posted(self) -> Iterator[T]:
        """The results that were handed over."""
        while self._posted:
            yield self._posted.popleft()

    def stop(self, deadline_s: float) -> None:
        """From now on, what is there is answered for at most so long."""
        self._stop_at = time.monotonic() + deadline_s

    def is_over(self, *, idle: bool) -> bool:
        """Whether the worker is to end now."""
        return self._stop_at is not None and (idle or time.monotonic() >= self._stop_at)

    def wait(self, *, busy: bool) -> bytes | None:
        """What the server has sent; empty where something was posted instead, or where nothing
        came and the loop is `busy`. None: the server has hung up.

        Looks again and again for `SPIN_S` before it sleeps.
        """
        data = b""
        for descriptor, _ in self._ready(0.0 if busy else self._patience_ms()):
            if descriptor == self._wake_read:
                os.read(self._wake_read, READ_BYTES)
                continue
            data = self._sock.recv(READ_BYTES)
            if not data:
                return None
        return data

    def _ready(self, patience_ms: float | None) -> list[tuple[int, int]]:
        ready = self._poll.poll(0)
        if ready or patience_ms == 0:
            return ready
        until = time.perf_counter() + SPIN_S
        while time.perf_counter() < until:
            os.sched_yield()
            ready = self._poll.poll(0)
            if ready:
                return ready
        return self._poll.poll(patience_ms)

    def _patience_ms(self) -> float | None:
        if self._stop_at is None:
            return None
        return max(0.0, self._stop_at - time.monotonic()) * 1000
