"""Which system calls this process and all that it starts may make: a seccomp filter.

Refused is what reaches past files and memory of one's own: other processes, mounts, namespaces,
kernel modules and keys, clocks, and calls whose own faults have often been ways into the kernel.
A refused call fails with EPERM, so that a library that merely tries goes on.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final

from lmaas.placement import kernel

REFUSED: Final = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "mount", "umount2",
    "pivot_root", "chroot", "setns", "unshare", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at", "bpf",
    "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct", "quotactl",
    "quotactl_fd", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname",
    "setdomainname", "iopl", "ioperm", "lookup_dcookie", "syslog", "vhangup", "personality",
    "fanotify_init", "modify_ldt", "uselib", "shmget", "memfd_secret",
)  # fmt: skip
NAMESPACES: Final = 0x7E020000
"""All flags of clone that make a namespace."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""Typing into a terminal that one shares with others."""
NONE: Final = ()
"""Pairs of sockets are made by another call; what is connected stays so."""
WITH_LOOPBACK: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)
"""16 is AF_NETLINK, with which one asks for one's own interfaces."""

PR_SET_SECCOMP: Final = 22
MODE_FILTER: Final = 2
_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets in what the kernel shows of a call; of arguments, the lower half."""

_Program = list[tuple[int, int, int, int]]


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def restrict(families: Iterable[int], also: Iterable[str] = ()) -> None:
    """Refuse the calls of `REFUSED` and `also`, and sockets of other families than `families`.

    Raises OSError where the kernel or the machine has no filters. `PR_SET_NO_NEW_PRIVS` must be
    set.
    """
    program = _program(kernel.MACHINE, tuple(families), (*REFUSED, *also))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    kernel.libc(
        "prctl", PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(_Filter(len(program), code)), 0, 0
    )


def _program(machine: str, families: tuple[int, ...], refused: tuple[str, ...]) -> _Program:
    numbers = kernel.NUMBERS.get(machine)
    if numbers is None or not kernel.LINUX:
        raise OSError(errno.ENOSYS, f"There is no filter of system calls for {machine}")
    no = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    program: _Program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), no]
    for name in refused:
        if name in numbers:
            program += [(_EQUAL, 0, 1, numbers[name]), no]
    # Its flags lie in memory, where a filter cannot look; the C library then takes clone.
    program += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [(_EQUAL, 0, 4, numbers["clone"]), (_LOAD, 0, 0, _FIRST)]
    program += [(_ANY_BIT, 0, 1, NAMESPACES), no, (_RETURN, 0, 0, _ALLOW)]
    program += [(_EQUAL, 0, 5, numbers["ioctl"]), (_LOAD, 0, 0, _SECOND)]
    program += [(_EQUAL, 1, 0, TIOCSTI), (_EQUAL, 0, 1, TIOCLINUX), no, (_RETURN, 0, 0, _ALLOW)]
    # The limits of others are theirs.
    program += [(_EQUAL, 0, 4, numbers["prlimit64"]), (_LOAD, 0, 0, _FIRST)]
    program += [(_EQUAL, 1, 0, 0), no, (_RETURN, 0, 0, _ALLOW)]
    program += [(_EQUAL, 0, 2 + len(families), numbers["socket"]), (_LOAD, 0, 0, _FIRST)]
    for left, family in zip(range(len(families), 0, -1), families, strict=True):
        program.append((_EQUAL, left, 0, family))
    return [*program, no, (_RETURN, 0, 0, _ALLOW)]
