"""Starts workers as processes of this machine. Knows nothing of what they serve."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PASSED_ON: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS",
)  # fmt: skip
"""Variables that a worker inherits. Keys, tokens and settings stay behind."""


async def start_worker(
    socket_path: Path, environ: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a worker that connects to `socket_path`, in a process group of its own.

    It has no network where the kernel permits that. It ends by itself when its end of the socket
    closes, so that none is left behind when the server is killed.
    """
    environ = os.environ if environ is None else environ
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "lmaas.placement.enter",
        "--socket",
        str(socket_path),
        stdin=asyncio.subprocess.DEVNULL,
        env={name: environ[name] for name in PASSED_ON if name in environ},
        start_new_session=True,
    )


def kill_worker(process: asyncio.subprocess.Process) -> None:
    """End a worker's whole process group at once."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
