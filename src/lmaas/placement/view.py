"""A process's own view of the files: what it is given, where it lies, and nothing else.

The root becomes an empty folder in memory into which the given files and folders are mounted at
their own paths, most of them read-only. Its /proc shows no other processes where the kernel allows
that, its /dev has the harmless devices, its /dev/shm is its own.
"""

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lmaas.placement import kernel

OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC, AT_RECURSIVE = 0x1, 0x80000, 0x8000
MOVE_FROM_DESCRIPTOR: Final = 0x4
AT_EMPTY_PATH: Final = 0x1000
READ_ONLY, NO_SETUID = 0x1, 0x2
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
MNT_DETACH: Final = 2
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the place that POSIX shared memory has on Linux
PLACE: Final = "/tmp"  # noqa: S108 - any folder does: only this process sees what is mounted on it
LINKS: Final = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
MAX_LINKS: Final = 40


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("namespace", ctypes.c_uint64),
    )


def enter(
    reads: Iterable[str], writes: Iterable[str], devices: Iterable[str], *, shared_bytes: int
) -> None:
    """Make this process see `reads`, read-only, `writes`, `devices` and /proc, and nothing else.

    Paths that do not exist are passed over. It must be in a mount namespace of its own. Raises
    OSError where the kernel does not allow it: the view is then as it was.
    """
    kernel.libc("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    kinds = {path: True for path in reads} | dict.fromkeys((*writes, *devices), False)
    # An outer folder first: what is mounted inside it holds there.
    trees = [(path, _clone(path, read_only=kinds[path])) for path in sorted(kinds, key=len)]
    trees += [("/proc", _processes())]
    here = os.getcwd()
    # Before anything lies over the old root.
    ways = [(_way(path, folder=_is_folder(tree)), tree) for path, tree in trees if tree is not None]
    flags = MS_NOSUID | MS_NODEV
    kernel.libc("mount", b"tmpfs", PLACE.encode(), b"tmpfs", flags, b"mode=0755,size=4m")
    try:
        _own_devices(shared_bytes)
        for way, descriptor in ways:
            _attach(descriptor, way)
        os.chdir(PLACE)
        kernel.call("pivot_root", b".", b".")
        kernel.libc("umount2", b".", MNT_DETACH)
    except BaseException:
        os.chdir("/")
        kernel.libc("umount2", PLACE.encode(), MNT_DETACH)
        raise
    finally:
        for _, tree in trees:
            if tree is not None:
                os.close(tree)
        with contextlib.suppress(OSError):
            os.chdir(here)


def _clone(path: str, *, read_only: bool) -> int | None:
    """The tree at `path`, with what is mounted below it; None where there is none."""
    if not os.path.exists(path):
        return None
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    tree = kernel.call("open_tree", kernel.AT_FDCWD, os.fsencode(path), flags)
    wanted = _Attributes(set=NO_SETUID | (READ_ONLY if read_only else 0))
    kernel.call(
        "mount_setattr",
        tree,
        b"",
        AT_EMPTY_PATH | AT_RECURSIVE,
        ctypes.byref(wanted),
        ctypes.sizeof(wanted),
    )
    return tree


def _processes() -> int | None:
    """A /proc in which only processes are seen that this one may trace; else the one there is."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    with contextlib.suppress(OSError):
        kernel.libc("mount", b"proc", b"/proc", b"proc", flags, b"hidepid=ptraceable")
    return _clone("/proc", read_only=False)


Way = list[tuple[str, str | None, bool]]
"""Places from the root on: a link's target or None, and whether it is a folder."""


def _is_folder(tree: int) -> bool:
    return stat.S_ISDIR(os.fstat(tree).st_mode)


def _way(path: str, *, folder: bool) -> Way:
    """How to get to `path`, links on the way included; what it names comes last."""
    found, way, links = "/", Way(), 0
    parts = [part for part in path.split("/") if part]
    while parts:
        here = os.path.join(found, parts.pop(0))
        if os.path.islink(here):
            links += 1
            if links > MAX_LINKS:
                raise OSError(f"{path} has too many links")
            target = os.readlink(here)
            way.append((here, target, False))
            ahead = os.path.normpath(os.path.join(found, target))
            parts = [part for part in ahead.split("/") if part] + parts
            found = "/"
        else:
            way.append((here, None, bool(parts) or folder))
            found = here
    return way


def _attach(tree: int, way: Way) -> None:
    """Mount `tree` at the end of `way` in the new root."""
    for here, target, folder in way:
        inside = PLACE + here
        if os.path.lexists(inside):
            continue
        if target is not None:
            os.symlink(target, inside)
        elif folder:
            os.mkdir(inside, 0o755)
        else:
            Path(inside).touch(0o644)
    place = os.fsencode(PLACE + way[-1][0])
    kernel.call("move_mount", tree, b"", kernel.AT_FDCWD, place, MOVE_FROM_DESCRIPTOR)


def _own_devices(shared_bytes: int) -> None:
    shared = PLACE + SHARED_MEMORY
    os.makedirs(shared, 0o755, exist_ok=True)
    told = f"mode=1777,size={shared_bytes}".encode()
    kernel.libc("mount", b"tmpfs", shared.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, told)
    for link, target in LINKS.items():
        os.symlink(target, PLACE + link)
