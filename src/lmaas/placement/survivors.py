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


def namespace_of(pid: int) -> str | None:
    """The network namespace of a process, None where it is ours or not known."""
    try:
        found = os.readlink(f"/proc/{pid}/ns/net")
        return None if found == os.readlink("/proc/self/ns/net") else found
    except OSError:
        return None


def end_all(namespace: str | None) -> None:
    """Kill every process of this namespace, and what they start meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while namespace is not None and time.monotonic() < deadline:
        found = [pid for pid in _processes() if namespace_of(pid) == namespace]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.005)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
