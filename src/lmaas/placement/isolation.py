"""The one place where a process that works on strangers' files and requests is shut in.

Workers, sandboxed children and jobs call `confine` before they do anything else, while they have
one thread. What the kernel or the machine lacks is passed over and named; with `required` the
process ends instead. Who starts a process says what it may reach; this module knows no models.
"""

import contextlib
import ctypes
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Final

from lmaas.errors import ConfigError
from lmaas.placement import kernel, landlock, seccomp, view
from lmaas.placement.network import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, leave
from lmaas.placement.view import SHARED_MEMORY
from lmaas.types import Record

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 8, 38, 47
PR_CAP_AMBIENT_RAISE: Final = 2
READ_SEARCH: Final = 2
CAP_DAC_READ_SEARCH: Final = 1 << READ_SEARCH
CAPABILITIES_3: Final = 0x20080522
FIRST_USER: Final = 1_800_000_000
"""Users without a name, one for each confined process: nothing on the machine is theirs."""
USERS: Final = 1 << 22
"""As many as there can be processes."""
THREADS_A_CORE: Final = 64
SYSTEM: Final = (
    "/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/localtime", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf",
    "/etc/mime.types", "/etc/os-release", "/etc/OpenCL", "/etc/vulkan",
    "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip
"""What programs read of any machine; no accounts, no keys, no settings."""
GPU_SYSTEM: Final = ("/sys/bus/pci", "/sys/class/drm", "/sys/devices", "/sys/module", "/run/nvidia")
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES: Final = ("/dev/dri", "/dev/kfd", "/dev/accel")
FOLDER_VARIABLES: Final = ("LD_LIBRARY_PATH", "PYTHONPATH")
GUARDS: Final = {
    "network": "the kernel gives no network namespace: only sockets, or Python's own calls in "
    "jobs, are refused",
    "files": "the kernel has no Landlock: files of the machine can be read",
    "view": "the kernel allows no mounts of its own: names of other files and processes are seen, "
    "and local sockets can be reached",
    "user": "the server runs as root, and so does what it starts, without privileges",
    "system-calls": "the kernel has no seccomp filter for this machine",
    "privileges": "privileges cannot be given up for good",
    "processes": "the number of processes has no bound of its own",
}
"""What can be missing, and what that means."""


class Confinement(Record, frozen=True, kw_only=True):
    """What a process may reach and use. Paths are absolute."""

    reads: tuple[str, ...] = ()
    """Read-only also where they lie in one of `writes`."""
    writes: tuple[str, ...] = ()
    spare: str | None = None
    """A folder that it writes in where it has no /dev/shm of its own."""
    loopback: bool = False
    """Whether it has a network of its own machine: pieces of one work talk over it."""
    memory_fds: bool = True
    """Whether it may make files without a name, in memory."""
    address_bytes: int | None = None
    data_bytes: int | None = None
    """The memory that it may fill; address space that only maps files does not count."""
    file_bytes: int | None = None
    cpu_s: int | None = None
    processes: int = 512
    """Threads and processes, beside some for each core."""
    shared_bytes: int = 64 << 20
    """The size of its /dev/shm."""
    dies_with_parent: bool = False
    """Whether it ends when the thread that started it does."""
    required: bool = False


def confine(wanted: Confinement) -> tuple[str, ...]:
    """Shut this process in for good; the names of `GUARDS` that could not be had.

    Raises ConfigError for any of them with `required`.
    """
    root = os.geteuid() == 0
    missing: list[str] = []
    _limit(wanted)
    reads, devices = [*_libraries(), *wanted.reads], _devices()
    own_mounts = _leave(root, wanted, missing)
    seen = own_mounts and _see(reads, wanted.writes, devices, wanted.shared_bytes)
    if not seen:
        missing.append("view")
    reader = root and seen and _become_nobody(wanted)
    if root and not reader:
        missing.append("user")
    if not _give_up_privileges(reader=reader):
        missing.append("privileges")
    if wanted.dies_with_parent:
        with contextlib.suppress(OSError):
            kernel.libc("prctl", kernel.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        # Its own where it has a view; else the machine's, for jobs, whose processes share.
        shared = (SHARED_MEMORY,) if seen or wanted.loopback else ()
        spare = () if wanted.spare is None or seen else (wanted.spare,)
        writes = (*wanted.writes, *shared, *spare)
        landlock.restrict((*reads, "/proc"), writes, devices, tcp=wanted.loopback)
    except OSError:
        missing.append("files")
    families = seccomp.WITH_LOOPBACK if wanted.loopback else seccomp.NONE
    try:
        seccomp.restrict(families, () if wanted.memory_fds else ("memfd_create",))
    except OSError:
        missing.append("system-calls")
    if missing and wanted.required:
        told = "; ".join(GUARDS[name] for name in missing)
        raise ConfigError(
            f"This machine cannot isolate models as isolation=required asks: {told}.",
            hint="`lmaas doctor` shows what is missing. isolation=auto goes on without it.",
            param="isolation",
        )
    return tuple(missing)


def _limit(wanted: Confinement) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: wanted.address_bytes,
        resource.RLIMIT_DATA: wanted.data_bytes,
        resource.RLIMIT_FSIZE: wanted.file_bytes,
        resource.RLIMIT_CPU: wanted.cpu_s,
    }
    for limit, value in limits.items():
        if value is not None:
            set_limit(limit, value)


def set_limit(limit: int, value: int) -> None:
    """Set one limit for good, or leave the smaller one that there is."""
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _leave(root: bool, wanted: Confinement, missing: list[str]) -> bool:
    """Leave the machine's namespaces; whether mounts are now our own."""
    every = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC
    left = leave(every, CLONE_NEWNET, CLONE_NEWNS, loopback=wanted.loopback)
    if not left & CLONE_NEWNET:
        missing.append("network")
    if root or left:
        cores = os.cpu_count() or 1
        set_limit(resource.RLIMIT_NPROC, wanted.processes + THREADS_A_CORE * cores)
    else:
        missing.append("processes")  # counted with all that the user runs
    return bool(left & CLONE_NEWNS)


def _see(reads: list[str], writes: tuple[str, ...], devices: list[str], shared_bytes: int) -> bool:
    try:
        view.enter(reads, writes, devices, shared_bytes=shared_bytes)
    except OSError:
        return False
    return True


def _become_nobody(wanted: Confinement) -> bool:
    """Become a user of our own, to whom `writes` belong; whether that could be done.

    Only in a view of our own: there, one privilege is kept, to read what one sees. Whatever its
    modes and those of the folders around it, what a process is given it can read.
    """
    user = FIRST_USER + os.getpid() % USERS
    try:
        for path in wanted.writes:
            _give(path, user, kept=wanted.reads)
        kernel.libc("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        kernel.libc("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self were root's
    except OSError:
        return False
    return True


def _give(path: str, user: int, *, kept: tuple[str, ...]) -> None:
    """Make `path` and what is below it the user's, but `kept`, and files with other names too."""
    os.lchown(path, user, user)
    for base, folders, files in os.walk(path):
        folders[:] = [name for name in folders if os.path.join(base, name) not in kept]
        for name in (*folders, *files):
            entry = os.path.join(base, name)
            status = os.lstat(entry)
            if entry not in kept and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
                os.lchown(entry, user, user)


def _give_up_privileges(*, reader: bool) -> bool:
    """Have no capability, but for a `reader` that of reading, and never gain one again."""
    kept = CAP_DAC_READ_SEARCH if reader else 0
    try:
        kernel.libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0)
        sets = (ctypes.c_uint32 * 6)(kept, kept, kept)
        kernel.call("capset", ctypes.byref(header), ctypes.byref(sets))
        if reader:
            kernel.libc("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, READ_SEARCH, 0, 0)
    except OSError:
        return False
    return True


def _libraries() -> list[str]:
    """What every Python process of ours reads: the system's libraries, Python's, and our own."""
    python = os.path.dirname(os.path.realpath(sys.executable))
    folders = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, python]
    folders += [path for path in sys.path if os.path.isabs(path)]
    folders.append(str(Path(__file__).parents[2]))
    for variable in FOLDER_VARIABLES:
        folders += os.environ.get(variable, "").split(os.pathsep)
    found = [os.path.abspath(path) for path in folders if os.path.isabs(path) and path != "/"]
    return [*SYSTEM, *(GPU_SYSTEM if _gpu_devices() else ()), *dict.fromkeys(found)]


def _gpu_devices() -> list[str]:
    found = [path for path in GPU_DEVICES if os.path.exists(path)]
    with contextlib.suppress(OSError):
        found += [f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("nvidia")]
    return found


def _devices() -> list[str]:
    return [*DEVICES, *_gpu_devices()]
