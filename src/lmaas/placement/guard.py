"""Runs a program of another environment, and lets none of its processes outlive the server.

`python -m lmaas.placement.guard PROGRAM ARGUMENT…` runs the program until it ends or the guard's
standard input closes, which a kernel does for a server that is killed. Then every descendant is
killed, those that left the process group too, and what they shared in memory is gone with them.
Knows nothing of what the program does.
"""

import asyncio
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import psutil

from lmaas.placement import kernel
from lmaas.placement.network import CLONE_NEWNET, CLONE_NEWNS, leave
from lmaas.placement.view import MS_NODEV, MS_NOSUID, MS_REC, SHARED_MEMORY

PR_SET_CHILD_SUBREAPER: Final = 36
MS_SLAVE: Final = 1 << 19
DOWNWARDS: Final = MS_REC | MS_SLAVE
"""What is mounted outside is seen inside, and not the other way round."""
SWEEP_S: Final = 5.0
"""How long killed processes get to be gone."""
CANNOT_START: Final = 127
OURS: Final = "PYTHONPATH"
"""What the guard needs and its program must not have: that has another Python."""


async def start_guarded(
    argv: Sequence[str], environ: Mapping[str, str], output: int
) -> asyncio.subprocess.Process:
    """Start `argv` under a guard, which leads a process group of its own.

    Closing the process's `stdin` ends all of it. What it writes goes to the descriptor `output`,
    which is no pipe of the process: waiting for its end would be waiting for every descendant's.
    It has no network but loopback where the kernel permits that, and of our environment only
    `environ`.
    """
    ours = {name: os.environ[name] for name in (OURS,) if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "lmaas.placement.guard",
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env={**environ, **ours},
        start_new_session=True,
    )


def main(argv: Sequence[str]) -> int:
    """Run `argv` to its end, or to ours; its exit code, 128 and the signal for one that was killed.

    Linux makes this process the parent of orphaned descendants, so that all of them are found.
    """
    leave(CLONE_NEWNET, loopback=True)
    if not any(argument.startswith(f"{SHARED_MEMORY}/") for argument in argv):
        hide_shared_memory()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    child = _start(argv)
    code = _watch(child, wake_read)
    _sweep()
    return code


def hide_shared_memory() -> None:
    """Have shared memory that is ours alone, where the kernel allows it.

    Whoever is killed leaves its segments in the machine's, hundreds of megabytes for vLLM; this one
    is gone with the last of us.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return
    with contextlib.suppress(OSError):
        kernel.call("unshare", CLONE_NEWNS)
        kernel.libc("mount", None, b"/", None, DOWNWARDS, None)
        kind, flags = b"tmpfs", MS_NOSUID | MS_NODEV
        kernel.libc("mount", kind, SHARED_MEMORY.encode(), kind, flags, b"mode=1777")


def _start(argv: Sequence[str]) -> int:
    """The child's process id. It is killed should this process be."""
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.pop(OURS, None)
            os.execvp(argv[0], list(argv))  # noqa: S606 - a shell would only be in between
    except OSError as error:
        os.write(2, f"{argv[0]} cannot be run: {error.strerror}.\n".encode())
    finally:
        os._exit(CANNOT_START)


def _watch(child: int, wake: int) -> int:
    """Wait for the child's end, for ours to be wished, or for the closing of standard input."""
    while True:
        ready, _, _ = select.select((0, wake), (), ())
        if wake in ready:
            told = os.read(wake, 4096)
            status = _reap(child)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if {signal.SIGTERM, signal.SIGINT} & set(told):
                return 0
        if 0 in ready and not os.read(0, 4096):
            return 0


def _reap(child: int) -> int | None:
    """Clear away what has ended, adopted processes too; the child's status when it is among it."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                break
            if ended == child:
                found = status
    return found


def _sweep() -> None:
    """Kill all descendants, and whoever of them is adopted meanwhile."""
    deadline = time.monotonic() + SWEEP_S
    while time.monotonic() < deadline:
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _reap(0)
        if not left:
            return
        time.sleep(0.01)


def _prctl(option: int, value: int) -> None:
    """Nothing on systems that have no such call."""
    with contextlib.suppress(OSError):
        kernel.libc("prctl", option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
