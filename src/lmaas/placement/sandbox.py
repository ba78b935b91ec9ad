"""Work on files that nobody vouches for, in a child process that can do little harm.

The child is shut in (`placement.isolation`): it reads what it is given, writes a scratch folder,
which is its home, and has bounded memory, file size, disk and time and none of our secrets in its
environment. What it leaves is read as a stranger's (`placement.left`). `lmaas.placement.child` is
its other end.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lmaas.errors import (
    BY_CODE,
    Cancelled,
    InvalidInput,
    LMaaSError,
    PayloadTooLarge,
    StorageFull,
    TimedOut,
)
from lmaas.placement import left
from lmaas.placement.base import ChildBounds
from lmaas.placement.survivors import Namespace, end_all, namespace_of
from lmaas.types import Record

POLL_S = 0.05
PROGRESS = "progress"
"""The file in its scratch folder in which a child tells how far it is, line by line."""
MAX_PROGRESS_BYTES = 65_536
MAX_ERROR_BYTES = 1 << 20
MAX_REPLY_BYTES = 64 << 20
TAIL_BYTES = 2000
LEAST_FREE_BYTES = 1 << 20
"""A child that dies with less on its device died of that."""
KEEP = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "KERAS_BACKEND", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
"""What a child may know of our environment: never keys, tokens or proxies."""


class ChildError(Record, frozen=True, kw_only=True):
    """An error on its way from child to parent."""

    code: str
    message: str
    hint: str | None = None
    param: str | None = None


def environment(home: Path) -> dict[str, str]:
    """What a process that works on strangers' files is told, and no more; `home` is its own."""
    # On cores with other work, threads that look for the next work without pause take most of them.
    told = {"OMP_WAIT_POLICY": "passive"}
    told |= {name: os.environ[name] for name in KEEP if name in os.environ}
    told |= dict.fromkeys(("HOME", "TMPDIR", "KERAS_HOME"), str(home))
    told |= {"USER": "lmaas", "CI": "1"}  # libraries would look for a name among the accounts
    told |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONSAFEPATH": "1"}
    return told | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def run_child(
    module: str,
    request: bytes,
    *,
    scratch: Path,
    bounds: ChildBounds,
    stop: threading.Event | None = None,
    heard: Callable[[bytes], None] | None = None,
) -> bytes:
    """The reply of `module.run(request)`, run in a sandboxed child that writes `scratch`.

    Raises the child's own LMaaSError, TimedOut or PayloadTooLarge when it reaches a bound, and
    InvalidInput with the end of its log when it dies; Cancelled soon after `stop` is set.
    `heard` is told each line that the child writes into `scratch`/progress.
    """
    (scratch / "bounds.json").write_bytes(msgspec.json.encode(bounds))
    (scratch / "request.json").write_bytes(request)
    folder = str(scratch)
    with (scratch / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lmaas.placement.child", module, folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=environment(scratch),
            start_new_session=True,
        )
    namespaces: list[Namespace] = []
    try:
        _wait(child, scratch, bounds, stop, heard, namespaces)
    finally:
        _kill_group(child)
        for namespace in namespaces:
            end_all(namespace)
    return _reply(child, scratch, bounds)


def _wait(
    child: subprocess.Popen[bytes],
    scratch: Path,
    bounds: ChildBounds,
    stop: threading.Event | None,
    heard: Callable[[bytes], None] | None,
    namespaces: list[Namespace],
) -> None:
    """Until it ends. `namespaces` gets the one that it has gone into."""
    deadline = time.monotonic() + bounds.timeout_s
    told = 0
    while True:
        try:
            child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if not namespaces and (namespace := namespace_of(child.pid)) is not None:
                namespaces.append(namespace)
            if heard is not None:
                told = _listen(scratch / PROGRESS, told, heard)
            if stop is not None and stop.is_set():
                raise Cancelled(f"{bounds.work}: nobody waits for it any more.") from None
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"{bounds.work} took longer than {bounds.timeout_s:g} s.",
                    hint="Raise compile_timeout_s.",
                ) from None
            if left.size(scratch) > bounds.disk_bytes:
                raise PayloadTooLarge(
                    f"{bounds.work} wrote more than {bounds.disk_bytes} bytes.",
                    hint="Raise compile_disk_bytes.",
                ) from None
        else:
            if heard is not None:
                _listen(scratch / PROGRESS, told, heard)
            return


def _listen(path: Path, told: int, heard: Callable[[bytes], None]) -> int:
    """Tell the whole lines of `path` after byte `told`; where they end."""
    if not os.path.lexists(path):
        return told
    lines = left.read(path, MAX_PROGRESS_BYTES, start=told).split(b"\n")[:-1]
    for line in lines:
        heard(line)
    return told + sum(len(line) + 1 for line in lines)


def _reply(child: subprocess.Popen[bytes], scratch: Path, bounds: ChildBounds) -> bytes:
    failure = scratch / "error.json"
    if os.path.lexists(failure):
        # What cannot be read is of a disk that is full, or of a stranger: it died, then.
        with contextlib.suppress(msgspec.DecodeError):
            told = msgspec.json.decode(left.read(failure, MAX_ERROR_BYTES), type=ChildError)
            error = BY_CODE.get(told.code, LMaaSError)(told.message, hint=told.hint)
            error.param = told.param
            raise error
    reply = scratch / "reply.json"
    if child.returncode == 0 and os.path.lexists(reply):
        return left.read(reply, MAX_REPLY_BYTES)
    if shutil.disk_usage(scratch).free < LEAST_FREE_BYTES:
        raise StorageFull(
            f"No space left: {bounds.work.lower()} in {scratch.parent} failed.",
            hint="Free space on the device of LMAAS_HOME and try again.",
        )
    tail = left.tail(scratch / "log", TAIL_BYTES).decode("utf-8", "replace").strip()
    code = child.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    raise InvalidInput(
        f"{bounds.work} failed: its process ended with {how}. {tail}".strip(),
        hint=f"It had {bounds.memory_bytes >> 20} MiB (compile_memory_bytes).",
    )


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
