"""A helper process for work that may hang, take all memory, or die: asked one thing at a time.

It is told and tells in frames: four bytes of length, then that many bytes. It ends when whoever
started it does, for its input is closed then.
"""

import contextlib
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import psutil

POLL_S: Final = 0.1
START_TIMEOUT_S: Final = 30.0
FIRST_TIMEOUT_S: Final = 5.0
WORK_S: Final = 10
"""Of a processor, for one answer."""
MAX_FRAME_BYTES: Final = 256 << 20
READ_BYTES: Final = 1 << 20
READY: Final = b"ready"
_LENGTH: Final = struct.Struct("<I")


class Slow(Exception):
    """The helper takes longer than it may; it has been ended."""


class Died(Exception):
    """The helper is dead."""


class Helper:
    """The module `module`, run in a process with `arguments`. Thread-safe.

    It is started again when it is asked after its end. `first` is what it is told at its beginning,
    each time.
    """

    def __init__(self, module: str, arguments: Sequence[str] = (), first: bytes = b"") -> None:
        self._argv = [sys.executable, "-P", "-m", module, *arguments]
        self._first = first
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._end: Callable[[], None] = lambda: None

    def begin(self) -> bytes:
        """Have it ready; the answer to what it is told first, if that is now. Raises Slow, Died."""
        with self._lock, self._ending():
            return b"" if self._ready else self._begin()

    def ask(self, frame: bytes, *, limit_s: float, patience_s: float) -> bytes:
        """The answer. It may take `limit_s`, of time and of the helper's own work: on a busy
        machine it has longer, up to `patience_s`. Raises Slow, Died.
        """
        with self._lock, self._ending():
            if not self._ready:
                self._begin()
            return self._ask(frame, limit_s, patience_s)

    def renew(self) -> None:
        """Start another process without waiting for it."""
        with self._lock:
            self._start()

    @property
    def pid(self) -> int | None:
        """Of the process that answers; None where there is none."""
        return None if self._process is None else self._process.pid

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        process = self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._end = weakref.finalize(self, _end, process)

    def _begin(self) -> bytes:
        self._start()
        if self._read(START_TIMEOUT_S, START_TIMEOUT_S) != READY:
            raise EOFError
        self._ready = True
        return self._ask(self._first, FIRST_TIMEOUT_S, START_TIMEOUT_S) if self._first else b""

    def _ask(self, frame: bytes, limit_s: float, patience_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        write_frame(self._process.stdin.fileno(), frame)
        answer = self._read(limit_s, patience_s)
        if answer[0]:
            self.close()  # it has grown, and ends itself
        return answer[1:]

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the process."""
        try:
            yield
        except (OSError, EOFError):
            self.close()
            raise Died from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self._end()
        self._process, self._ready = None, False

    def _read(self, limit_s: float, patience_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not _answers(descriptor, self._process.pid, limit_s, patience_s):
            raise Slow
        return read_frame(descriptor)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _answers(descriptor: int, pid: int, limit_s: float, patience_s: float) -> bool:
    """Wait for the helper as long as it may take."""
    if select.select((descriptor,), (), (), min(limit_s, POLL_S))[0]:
        return True
    process = psutil.Process(pid)
    start, before_s = time.monotonic(), _worked_s(process)
    while True:
        if select.select((descriptor,), (), (), POLL_S)[0]:
            return True
        waited_s = time.monotonic() - start + POLL_S
        worked_s = _worked_s(process) - before_s + POLL_S
        if waited_s > patience_s or (waited_s > limit_s and worked_s > limit_s):
            return False


def _worked_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def write_frame(descriptor: int, frame: bytes) -> None:
    """Send one frame. Raises OSError when nobody reads any more."""
    data = memoryview(_LENGTH.pack(len(frame)) + frame)
    while data:
        data = data[os.write(descriptor, data) :]


def read_frame(descriptor: int) -> bytes:
    """The next frame. Raises EOFError at the end, and for one that is too long."""
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size))
    if length > MAX_FRAME_BYTES:
        raise EOFError
    return _read(descriptor, length)


def _read(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(descriptor, min(size - len(data), READ_BYTES))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def serve(make: Callable[[], Callable[[bytes], bytes]], more_bytes: int) -> None:
    """The helper's own main loop: make ready what answers, say so, then answer frame by frame.

    From here on it may take `more_bytes` of memory beside what it has, and `WORK_S` for an answer,
    also when nobody is left who would end it; when it holds half of that, it ends. What libraries
    print does not reach the answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)
    answer = make()
    own = psutil.Process()
    held = own.memory_info()
    _bound(resource.RLIMIT_AS, held.vms + more_bytes)
    most = held.rss + more_bytes // 2
    write_frame(out, READY)
    grown = False
    with contextlib.suppress(EOFError, OSError):
        while not grown:
            frame = read_frame(0)
            _bound(resource.RLIMIT_CPU, int(time.process_time()) + WORK_S)
            told = answer(frame)
            grown = own.memory_info().rss > most
            write_frame(out, bytes((grown,)) + told)


def _bound(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard < 0 else min(value, hard), hard))
