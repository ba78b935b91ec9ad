"""What a child that loads a stranger's model can and cannot do."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmaas.errors import (
    DoesNotFit,
    InvalidInput,
    LMaaSError,
    PayloadTooLarge,
    StorageFull,
    TimedOut,
)
from lmaas.placement import sandbox
from lmaas.placement.base import ChildBounds

ACTS = """
import json, os, socket, subprocess, sys, time
from lmaas.errors import Quarantined

def run(body):
    return globals()[json.loads(body)["act"]](json.loads(body))

def echo(given):
    return json.dumps({"environment": dict(os.environ), "cwd": os.getcwd()}).encode()

def connect(given):
    try:
        socket.create_connection(("127.0.0.1", given["port"]), 2)
    except OSError as error:
        return str(type(error).__name__).encode()
    return b"connected"

def connect_below_python(given):
    code = f"import socket; socket.create_connection(('127.0.0.1', {given['port']}), 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    return str(done.returncode).encode()

def refuse(given):
    raise Quarantined("told", hint="and hinted")

def hoard(given):
    return bytes(1 << 34)

def loop(given):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    with open(given["pid"], "w") as file:
        file.write(str(child.pid))
    time.sleep(100)

def fill(given):
    for i in range(1000):
        open(f"file{i}", "wb").write(bytes(1 << 20))
        time.sleep(0.01)

def one_file(given):
    open("big", "wb").write(bytes(1 << 25))

def half_an_error(given):
    with open("error.json", "w") as file:
        file.write('{"code": "storage_fu')
    os._exit(1)

def crash(given):
    os.kill(os.getpid(), 11)
"""


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one act in a child; it finds the acts as a module in its scratch folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    module = tmp_path / "module"
    module.mkdir()
    (module / "acts.py").write_text(ACTS)
    path = next(p for p in sys.path if p.endswith("site-packages"))
    monkeypatch.setattr(sandbox, "KEEP", (*sandbox.KEEP, "PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(module), path]))

    def run(name: str, timeout_s: float = 60.0, **given: Any) -> bytes:
        return sandbox.run_child(
            "acts",
            json.dumps({"act": name, **given}).encode(),
            scratch=scratch,
            bounds=ChildBounds(timeout_s=timeout_s, memory_bytes=4 << 30, disk_bytes=16 << 20),
        )

    return run


def test_its_environment_has_no_secrets(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_KEY", "sk-lmaas-secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    told = json.loads(act("echo"))
    assert "secret" not in json.dumps(told)
    assert told["environment"]["HOME"] == told["cwd"]


def test_it_uses_as_many_threads_as_we_do(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(act("echo"))["environment"]["OMP_WAIT_POLICY"] == "passive"
    bounds = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}
    bounds |= {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "1"}
    for name, value in bounds.items():
        monkeypatch.setenv(name, value)
    told = json.loads(act("echo"))["environment"]
    assert {name: told.get(name) for name in bounds} == bounds


@pytest.mark.parametrize("how", ["connect", "connect_below_python"])
def test_it_has_no_network(act: Any, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = act(how, port=listener.getsockname()[1])
    assert answer in (b"PermissionError", b"OSError", b"1")


def test_its_errors_cross_as_they_are(act: Any) -> None:
    with pytest.raises(LMaaSError, match="told") as caught:
        act("refuse")
    assert caught.value.code == "request_quarantined"
    assert caught.value.hint == "and hinted"


def test_its_memory_is_bounded(act: Any) -> None:
    with pytest.raises(DoesNotFit, match="4096 MiB"):
        act("hoard")


def test_its_time_is_bounded_and_its_children_end_with_it(act: Any, tmp_path: Path) -> None:
    told = tmp_path / "scratch" / "pid"
    with pytest.raises(TimedOut):
        act("loop", timeout_s=3.0, pid=str(told))
    pid = int(told.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child's child lives on")


def test_its_disk_is_bounded(act: Any) -> None:
    for how in ("fill", "one_file"):
        with pytest.raises(PayloadTooLarge, match="16777216"):
            act(how)


def test_its_death_is_told(act: Any) -> None:
    with pytest.raises(InvalidInput, match="SIGSEGV"):
        act("crash")


def test_half_an_error_is_that_of_a_full_disk_or_a_strangers(
    act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match="ended with code 1"):
        act("half_an_error")
    monkeypatch.setattr(sandbox, "LEAST_FREE_BYTES", 1 << 62)
    with pytest.raises(StorageFull, match="No space left: compiling"):
        act("half_an_error")
