"""Leaving the network and other namespaces of the machine, where the kernel allows it.

Where it does not, Python's own calls to the network are refused.
"""

import contextlib
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from lmaas.placement import kernel

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x40000000,
)  # fmt: skip

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NETWORK_EVENTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")


def leave(*choices: int, loopback: bool = False) -> int:
    """Leave the namespaces of the first of `choices` that the kernel allows; which, 0 for none.

    A network that is left has `loopback` of its own, for processes that share a piece of work, or
    nothing at all.
    """
    root = os.geteuid() == 0
    user, group = os.geteuid(), os.getegid()
    left = 0
    for flags in choices:
        with contextlib.suppress(OSError):
            kernel.call("unshare", flags if root else flags | CLONE_NEWUSER)
            left = flags
            break
    if left and not root:
        _stay_who_we_are(user, group)
    if left & CLONE_NEWNET and loopback:
        _raise_loopback()
    if not left & CLONE_NEWNET:
        sys.addaudithook(_refuse_but_loopback if loopback else _refuse_network)
    return left


def _stay_who_we_are(user: int, group: int) -> None:
    """Who we are is not known in a new user namespace until it is told."""
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", "ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", "ascii")


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
