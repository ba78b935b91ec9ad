"""The inside of the sandbox: bind yourself, then do the work.

`python -m lmaas.placement.child MODULE SCRATCH` runs `MODULE.run(request)`.
"""

import ctypes
import errno
import fcntl
import importlib
import os
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec

from lmaas.errors import FULL, LMaaSError, PayloadTooLarge, StorageFull
from lmaas.placement.sandbox import Bounds, ChildError

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NETWORK_EVENTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")


def main(module: str, scratch: Path) -> None:
    """Run the work under its bounds; leave `reply.json` or `error.json`."""
    bounds = msgspec.json.decode((scratch / "bounds.json").read_bytes(), type=Bounds)
    leave_network()
    limits = {
        resource.RLIMIT_AS: bounds.memory_bytes,
        resource.RLIMIT_FSIZE: bounds.disk_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: max(1, int(bounds.timeout_s * (os.cpu_count() or 1))),
    }
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    try:
        reply = importlib.import_module(module).run((scratch / "request.json").read_bytes())
    except LMaaSError as error:
        told = ChildError(
            code=error.code, message=error.message, hint=error.hint, param=error.param
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    except OSError as error:
        if error.errno not in FULL:
            raise
        bounded = error.errno == errno.EFBIG
        told = ChildError(
            code=PayloadTooLarge.code if bounded else StorageFull.code,
            message=f"{bounds.work} wrote more than {bounds.disk_bytes} bytes."
            if bounded
            else f"{bounds.work} found no space left: {error.strerror}.",
            hint="Raise compile_disk_bytes."
            if bounded
            else "Free space on the device of LMAAS_HOME.",
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    except MemoryError:
        told = ChildError(
            code="does_not_fit",
            message=f"{bounds.work} needs more than {bounds.memory_bytes >> 20} MiB.",
            hint="Raise compile_memory_bytes.",
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    else:
        (scratch / "reply.json").write_bytes(reply)


def leave_network(*, loopback: bool = False) -> bool:
    """Enter a network namespace without any interface; whether the kernel allowed it.

    With `loopback` it has one of its own, for processes that share a piece of work. Where the
    kernel does not allow it, Python's own network calls are still refused, but to loopback.
    """
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    left = unshare is not None and bool(unshare(flags) == 0)
    if loopback and left:
        _raise_loopback()
    else:
        sys.addaudithook(_refuse_but_loopback if loopback else _refuse_network)
    return left


def _raise_loopback() -> None:
    """Bring `lo` up: a new namespace has it, but down."""
    request = struct.Struct("16sH22x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        told = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request.pack(b"lo", 0))
        flags = request.unpack(told)[1] | IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request.pack(b"lo", flags))


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    if event in NETWORK_EVENTS and not (len(args) > 1 and isinstance(args[1], str | bytes)):
        raise PermissionError(f"No network here: {event} is refused while a model is loaded.")


def _refuse_but_loopback(event: str, args: tuple[Any, ...]) -> None:
    if event not in NETWORK_EVENTS:
        return
    target = args[0] if event == "socket.getaddrinfo" else args[1]
    host = target[0] if isinstance(target, tuple) else target
    if host not in LOOPBACK and not (
        isinstance(target, str | bytes) and event != "socket.getaddrinfo"
    ):
        raise PermissionError(f"No network here: {event} to {host!r} is refused in a job.")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
