"""Linux's own calls that Python does not have, and the numbers they take.

Knows nothing of what is confined. On other systems every call fails with OSError.
"""

import ctypes
import errno
import os
import platform
import sys
from typing import Final

AT_FDCWD: Final = -100
PR_SET_PDEATHSIG: Final = 1
LINUX: Final = sys.platform == "linux"
MACHINE: Final = platform.machine()

_BOTH: Final = {
    "pidfd_getfd": 438, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "clone3": 435, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
}  # fmt: skip
"""Calls that have one number on every machine, as all since Linux 5.1 have."""
NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": _BOTH | {
        "socket": 41, "ioctl": 16, "clone": 56, "ptrace": 101, "syslog": 103, "capset": 126,
        "uselib": 134, "personality": 135, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155,
        "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165,
        "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
        "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212, "clock_settime": 227,
        "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319,
        "shmget": 29, "prlimit64": 302, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": _BOTH | {
        "socket": 198, "ioctl": 29, "clone": 220, "ptrace": 117, "syslog": 116, "capset": 91,
        "personality": 92, "vhangup": 58, "pivot_root": 41, "adjtimex": 171, "chroot": 51,
        "acct": 89, "settimeofday": 170, "mount": 40, "umount2": 39, "swapon": 224,
        "swapoff": 225, "reboot": 142, "sethostname": 161, "setdomainname": 162,
        "init_module": 105, "delete_module": 106, "quotactl": 60, "lookup_dcookie": 18,
        "clock_settime": 112, "kexec_load": 104, "add_key": 217, "request_key": 218,
        "keyctl": 219, "unshare": 97, "perf_event_open": 241, "fanotify_init": 262,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
        "memfd_create": 279, "shmget": 194, "prlimit64": 261,
        "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """Make the system call `name`. Raises OSError."""
    number = NUMBERS.get(MACHINE, {}).get(name) if LINUX else None
    if number is None:
        raise OSError(errno.ENOSYS, f"{name} is not known on {MACHINE}")
    library = ctypes.CDLL(None, use_errno=True)
    done = library.syscall(ctypes.c_long(number), *(_native(value) for value in arguments))
    return checked(name, done)


def libc(name: str, *arguments: object) -> int:
    """Call the C library's function `name`, which tells faults in errno. Raises OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"{name} is not known on {sys.platform}")
    return checked(name, function(*(_native(value) for value in arguments)))


def checked(name: str, done: int) -> int:
    """`done`, where it tells no fault."""
    if done == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return done


def _native(value: object) -> object:
    """Numbers as wide as registers: ctypes would cut them to 32 bits."""
    return ctypes.c_long(value) if isinstance(value, int) else value
