"""What a process does that has been taken over: tries to get out, and tells how each try ended.

Run inside a sandboxed child (`run`), in the place of a worker's module (`run` with a socket), and
as the work of a job.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKS = 10_000


def attempts(given: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Every try by its name. What it returns is what it got."""
    server, home = given["pid"], Path(given["home"])
    return {
        "read the machine's accounts": lambda: Path("/etc/passwd").read_text(),
        "read the database": lambda: (home / "lmaas.db").read_bytes(),
        "read another's file": lambda: Path(given["blob"]).read_bytes(),
        "read a file by a link": lambda: _by_link(home / "lmaas.db"),
        "list the home": lambda: os.listdir(home),
        "read the server's environment": lambda: Path(f"/proc/{server}/environ").read_bytes(),
        "read the server's memory": lambda: Path(f"/proc/{server}/maps").read_bytes(),
        "read what the server has open": lambda: os.listdir(f"/proc/{server}/fd"),
        "read through the server's root": lambda: os.listdir(f"/proc/{server}/root"),
        "see the server": lambda: Path(f"/proc/{server}/cmdline").read_bytes(),
        "write into the home": lambda: (home / "new").write_text("x"),
        "write over a library": lambda: Path(json.__file__).with_name("new.py").write_text("x"),
        "write what it only reads": lambda: _overwrite(Path(given["reads"])),
        "make what it only reads writable": lambda: Path(given["reads"]).chmod(0o666),
        "write into the machine's folder": lambda: Path("/usr/new").write_text("x"),
        "connect": lambda: socket.create_connection(("127.0.0.1", given["port"]), 2).close(),
        "connect below Python": lambda: _connect_in_other_program(given["port"]),
        "connect to a local socket": lambda: socket.socket(socket.AF_UNIX).connect(given["socket"]),
        "signal the server": lambda: os.kill(server, 0),
        "limit the server": lambda: resource.prlimit(server, resource.RLIMIT_CORE, (0, 0)),
        "share memory by System V": lambda: _call("shmget", 0, 4096, 0o1600),
        "trace the server": lambda: _call("ptrace", 16, server, 0, 0),
        "mount": lambda: _call("mount", b"none", b"/", b"tmpfs", 0, None),
        "make a namespace": lambda: _call("unshare", 0x10000000),
        "become root": _become_root,
        "open a file by its number": lambda: _call("open_by_handle_at", 0, None, 0),
        "set the clock": lambda: _call("clock_settime", 0, ctypes.create_string_buffer(16)),
        "fork without end": _fork,
        "write a file without end": lambda: _fill(Path(given["scratch"]) / "big"),
        "fill the memory": _hoard,
    }


def outcome(attempt: Callable[[], object]) -> str:
    """ "refused", or what the try got."""
    try:
        got = attempt()
    except (OSError, MemoryError, ValueError):
        return "refused"
    return f"got {got!r:.60}"


def run(given: Any, noted: Any = None) -> bytes:
    """All tries. A worker is asked over its socket, a child by its request."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if noted is None:
        asked = json.loads(given)
        tries = attempts(asked)
        told = {name: outcome(tries[name]) for name in tries.keys() - set(asked["without"])}
        return json.dumps(told).encode()
    given.sendall(run(given.recv(1 << 20)))
    os._exit(0)


def _by_link(target: Path) -> bytes:
    link = Path("link")
    if not os.path.lexists(link):
        link.symlink_to(target)
    return link.read_bytes()


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _connect_in_other_program(port: int) -> None:
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode:
        raise ConnectionRefusedError


def _call(name: str, *arguments: object) -> int:
    done = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if done == -1:
        raise OSError(ctypes.get_errno(), name)
    return int(done)


def _become_root() -> int:
    os.setresuid(0, 0, 0)
    return os.getuid()


def _fork() -> int:
    children = []
    try:
        for _ in range(FORKS):
            child = os.fork()
            if not child:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return len(children)


def _fill(path: Path) -> int:
    with path.open("wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    return 64


def _hoard() -> int:
    size = 8 << 30
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    return size
