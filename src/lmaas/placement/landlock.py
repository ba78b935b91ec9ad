"""Which files this process and all that it starts may reach, held by Linux's Landlock.

https://docs.kernel.org/userspace-api/landlock.html. A rule is kept by the kernel for good: nothing
that the process runs later can take it back. It also keeps the process from tracing, signalling or
reading the memory of processes that are not confined with it.
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from lmaas.placement import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: IOCTL_DEV}
"""Rights by the version of Landlock that brought them."""
OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ: Final = EXECUTE | READ_FILE | READ_DIR
DEVICE: Final = READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV | TRUNCATE
TCP: Final = 0b11
SCOPES: Final = 0b11
"""Abstract sockets and signals."""
_VERSION: Final = 1
_PATH_BENEATH: Final = 1


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none."""
    try:
        return kernel.call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict(
    reads: Iterable[str], writes: Iterable[str], devices: Iterable[str], *, tcp: bool
) -> None:
    """Allow reading and running `reads`, all with `writes`, using `devices`, and nothing else.

    Paths that do not exist are passed over. With `tcp` the network stays as it is. Raises OSError
    where the kernel has no Landlock. `PR_SET_NO_NEW_PRIVS` must be set.
    """
    abi = version()
    every = 0
    for since, rights in RIGHTS.items():
        every |= rights if since <= abi else 0
    ruleset = _Ruleset(every, 0 if tcp or abi < 4 else TCP, SCOPES if abi >= 6 else 0)
    size = ctypes.sizeof(ruleset) if abi >= 6 else 16 if abi >= 4 else 8
    rules = kernel.call("landlock_create_ruleset", ctypes.byref(ruleset), size, 0)
    try:
        for paths, rights in ((reads, READ), (writes, every), (devices, DEVICE)):
            for path in paths:
                _allow(rules, path, rights & every)
        kernel.call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= OF_FILES
        beneath = _Beneath(rights, descriptor)
        kernel.call("landlock_add_rule", rules, _PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(descriptor)
