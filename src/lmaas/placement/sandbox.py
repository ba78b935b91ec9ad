"""Work on files that nobody vouches for, in a child process that can do little harm.

The child has no network, bounded memory, file size, disk and time, none of our secrets in its
environment, and a scratch folder as its home. `lmaas.placement.child` is its other end.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lmaas.errors import BY_CODE, Cancelled, InvalidInput, LMaaSError, PayloadTooLarge, TimedOut
from lmaas.types import Record

POLL_S = 0.1
PROGRESS = "progress"
"""The file in its scratch folder in which a child tells how far it is, line by line."""
MAX_PROGRESS_BYTES = 65_536
KEEP = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "KERAS_BACKEND", "VIRTUAL_ENV")
"""What a child may know of our environment: never keys, tokens or proxies."""


class Bounds(Record, frozen=True, kw_only=True):
    """What the child sets for itself before it looks at the request."""

    memory_bytes: int
    disk_bytes: int
    timeout_s: float
    work: str = "Compiling"
    """What errors call it."""


class ChildError(Record, frozen=True, kw_only=True):
    """An error on its way from child to parent."""

    code: str
    message: str
    hint: str | None = None
    param: str | None = None


def run_child(
    module: str,
    request: bytes,
    *,
    scratch: Path,
    timeout_s: float,
    memory_bytes: int,
    disk_bytes: int,
    work: str = "Compiling",
    stop: threading.Event | None = None,
    heard: Callable[[bytes], None] | None = None,
) -> bytes:
    """The reply of `module.run(request)`, run in a sandboxed child; errors call it `work`.

    Raises the child's own LMaaSError, TimedOut or PayloadTooLarge when it reaches a bound, and
    InvalidInput with the end of its log when it dies; Cancelled soon after `stop` is set.
    `heard` is told each line that the child writes into `scratch`/progress.
    """
    bounds = Bounds(
        memory_bytes=memory_bytes, disk_bytes=disk_bytes, timeout_s=timeout_s, work=work
    )
    (scratch / "bounds.json").write_bytes(msgspec.json.encode(bounds))
    (scratch / "request.json").write_bytes(request)
    environment = {name: os.environ[name] for name in KEEP if name in os.environ}
    folder = str(scratch)
    environment |= {"HOME": folder, "TMPDIR": folder, "KERAS_HOME": folder, "CI": "1"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONSAFEPATH": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with (scratch / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lmaas.placement.child", module, folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(child, scratch, bounds, stop, heard)
    finally:
        _kill_group(child)
    return _reply(child, scratch, bounds)


def _wait(
    child: subprocess.Popen[bytes],
    scratch: Path,
    bounds: Bounds,
    stop: threading.Event | None,
    heard: Callable[[bytes], None] | None,
) -> None:
    deadline = time.monotonic() + bounds.timeout_s
    told = 0
    while True:
        try:
            child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if heard is not None:
                told = _listen(scratch / PROGRESS, told, heard)
            if stop is not None and stop.is_set():
                raise Cancelled(f"{bounds.work}: nobody waits for it any more.") from None
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"{bounds.work} took longer than {bounds.timeout_s:g} s.",
                    hint="Raise compile_timeout_s.",
                ) from None
            if _size(scratch) > bounds.disk_bytes:
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
    if not path.exists():
        return told
    with path.open("rb") as file:
        file.seek(told)
        lines = file.read(MAX_PROGRESS_BYTES).split(b"\n")[:-1]
    for line in lines:
        heard(line)
    return told + sum(len(line) + 1 for line in lines)


def _reply(child: subprocess.Popen[bytes], scratch: Path, bounds: Bounds) -> bytes:
    failure = scratch / "error.json"
    if failure.exists():
        told = msgspec.json.decode(failure.read_bytes(), type=ChildError)
        error = BY_CODE.get(told.code, LMaaSError)(told.message, hint=told.hint)
        error.param = told.param
        raise error
    reply = scratch / "reply.json"
    if child.returncode == 0 and reply.exists():
        return reply.read_bytes()
    tail = (scratch / "log").read_bytes()[-2000:].decode("utf-8", "replace").strip()
    code = child.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    raise InvalidInput(
        f"{bounds.work} failed: its process ended with {how}. {tail}".strip(),
        hint=f"It had {bounds.memory_bytes >> 20} MiB (compile_memory_bytes).",
    )


def _size(folder: Path) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
