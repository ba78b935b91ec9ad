"""Starts workers as processes of this machine. Knows nothing of what they serve."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lmaas.placement.isolation import Confinement
from lmaas.placement.output import Output

PASSED_ON: Final = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
"""Variables that a worker inherits. Keys, tokens and settings stay behind."""
NOWHERE: Final = {"HOME": "/", "USER": "lmaas", "KERAS_HOME": "/"}
"""A worker has no home: libraries that would keep things there cannot."""
FILE_BYTES: Final = 512 << 20
"""The largest file that a worker can write, and all that it can have in its own /dev/shm."""


async def start_worker(
    socket_path: Path,
    journal: Path,
    files: Sequence[Path],
    spare: Path,
    *,
    memory_bytes: int,
    required: bool = False,
    environ: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Start a worker that connects to `socket_path`, in a process group of its own.

    It is shut in (`placement.isolation`): it reads the model's `files`, folders that are there, and
    writes its `journal`, files in memory (in the folder `spare` where the kernel has no way to
    bound these), and up to `memory_bytes` of memory. It ends by itself when its end of the
    socket closes, so that none is left behind when the server is killed. What it prints goes to
    stderr through a pipe.
    """
    confinement = Confinement(
        reads=tuple(map(str, files)),
        memory_fds=False,
        data_bytes=memory_bytes,
        file_bytes=FILE_BYTES,
        shared_bytes=FILE_BYTES,
        spare=str(spare),
        required=required,
    )
    environ = os.environ if environ is None else environ
    output = Output()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "lmaas.placement.enter",
            str(socket_path),
            str(journal),
            msgspec.json.encode(confinement).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.descriptor,
            stderr=output.descriptor,
            env={name: environ[name] for name in PASSED_ON if name in environ} | NOWHERE,
            start_new_session=True,
        )
    except BaseException:
        output.close()
        raise
    output.pass_on()
    return process


def kill_worker(process: asyncio.subprocess.Process) -> None:
    """End a worker's whole process group at once."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
