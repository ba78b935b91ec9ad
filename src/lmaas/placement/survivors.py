"""Ending all that a confined process has started, also what has left its process group.

Each confined process has a network namespace of its own, which its descendants cannot leave: so
they are known by it.
"""

import contextlib
import os
import signal
import time
from typing import Final

PATIENCE_S: Final = 5.0


class Namespace:
    """The network namespace of a process. While this is kept, no other gets its number."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.number = os.fstat(descriptor).st_ino

    def __del__(self) -> None:
        os.close(self._descriptor)


def namespace_of(pid: int) -> Namespace | None:
    """Where a process is; None where that is where we are, or is not known."""
    try:
        found = Namespace(os.open(_place(pid), os.O_RDONLY | os.O_CLOEXEC))
        return None if found.number == os.stat("/proc/self/ns/net").st_ino else found
    except OSError:
        return None


def end_all(namespace: Namespace | None) -> None:
    """Kill every process of this namespace, and what they start meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while namespace is not None and time.monotonic() < deadline:
        found = [pid for pid in _processes() if _is_in(pid, namespace.number)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.005)


def _is_in(pid: int, number: int) -> bool:
    try:
        return os.stat(_place(pid)).st_ino == number
    except OSError:
        return False


def _place(pid: int) -> str:
    return f"/proc/{pid}/ns/net"


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
