"""Whatever ends, nothing of a guarded program is left."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from lmaas.placement.guard import start_guarded

FAMILY = """
import os, subprocess, sys, time
ours = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(ours)
gone_off = subprocess.Popen(ours, start_new_session=True)
orphaned = [sys.executable, "-c",
    f"import subprocess; print(subprocess.Popen("
    f"{ours!r}, stdout=subprocess.DEVNULL, start_new_session=True).pid)"]
orphan = int(subprocess.run(orphaned, stdout=subprocess.PIPE, check=True).stdout)
print(os.getpid(), child.pid, gone_off.pid, orphan, flush=True)
time.sleep(300)
"""
STARTER = """
import asyncio, sys
from lmaas.placement.guard import start_guarded

async def main():
    process = await start_guarded([sys.executable, "-c", sys.argv[1]], {}, 1)
    print(process.pid, end=" ", flush=True)
    await process.wait()

asyncio.run(main())
"""


async def family() -> tuple[asyncio.subprocess.Process, list[int]]:
    source, sink = os.pipe()
    process = await start_guarded([sys.executable, "-c", FAMILY], {}, sink)
    os.close(sink)
    with os.fdopen(source) as file:
        pids = [int(pid) for pid in (await asyncio.to_thread(file.readline)).split()]
    assert len(pids) == 4
    return process, pids


def all_of(argv: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a program that ends by itself."""

    async def run(output: int) -> int:
        return await (await start_guarded(argv, environ, output)).wait()

    with tempfile.TemporaryFile("w+") as file:
        code = asyncio.run(run(file.fileno()))
        file.seek(0)
        return code, file.read()


def gone(pids: list[int]) -> bool:
    """Whether all are, before long."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["standard input closes", "it is asked to end", "the program ends"])
def test_no_descendant_is_left(how: str) -> None:
    async def run() -> None:
        process, pids = await family()
        assert all(alive(pid) for pid in pids)
        if how == "standard input closes":
            assert process.stdin is not None
            process.stdin.close()
        elif how == "it is asked to end":
            process.terminate()
        else:
            os.kill(pids[0], signal.SIGKILL)
        code = await asyncio.wait_for(process.wait(), 20)
        assert code == (128 + signal.SIGKILL if how == "the program ends" else 0)
        assert gone(pids)

    asyncio.run(run())


def test_none_is_left_when_whoever_started_it_is_killed() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, FAMILY], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pids = [int(pid) for pid in starter.stdout.readline().split()]
    assert len(pids) == 5
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert gone(pids)


def test_the_program_goes_when_the_guard_is_killed() -> None:
    async def run() -> None:
        process, pids = await family()
        process.kill()
        await process.wait()
        try:
            assert gone(pids[:1])
        finally:
            for pid in pids[1:]:
                os.kill(pid, signal.SIGKILL)

    asyncio.run(run())


def test_it_knows_its_own_environment_and_no_network_but_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LMAAS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    program = """
import os, socket
print(sorted(os.environ))
with socket.create_server(("127.0.0.1", 0)) as own:
    socket.create_connection(own.getsockname(), 5).close()
print("its own loopback")
try:
    socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 5)
    print("connected")
except OSError:
    print("not connected")
"""

    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = str(outside.getsockname()[1])
        code, told = all_of([sys.executable, "-c", program], {"PORT": port})
    assert code == 0
    first, own, other = told.splitlines()
    assert "LMAAS_KEY" not in first
    assert "PYTHONPATH" not in first
    assert "PORT" in first
    assert own == "its own loopback"
    assert other == "not connected"


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, told = all_of([str(tmp_path / "none")], {})
    assert code == 127
    assert "No such file" in told


def test_its_shared_memory_is_gone_with_it() -> None:
    program = """
import os, time
from multiprocessing.shared_memory import SharedMemory
print(SharedMemory(create=True, size=1 << 20).name, flush=True)
os.kill(os.getppid(), 15)
time.sleep(300)
"""
    _, name = all_of([sys.executable, "-c", program], {})
    assert name.strip()
    assert name.strip() not in os.listdir("/dev/shm")
