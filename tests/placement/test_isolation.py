"""A child, a worker and a job that have been taken over do not get out."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmaas.errors import ModelRefused
from lmaas.placement import left, sandbox, seccomp
from lmaas.placement.base import ChildBounds
from lmaas.placement.isolation import Confinement
from lmaas.placement.kernel import NUMBERS
from lmaas.placement.probe import missing
from lmaas.placement.view import SHARED_MEMORY

HERE = str(Path(__file__).parent)
MOST_BYTES = 32 << 20
BY_GUARD = {
    "view": {"read through the server's root", "see the server", "list the home"},
    "files": {
        "read the machine's accounts", "read the database", "read another's file",
        "read a file by a link", "write into the home", "write over a library",
        "write what it only reads", "write into the machine's folder",
    },
    "user": {"make what it only reads writable", "see the server"},
    "network": {"connect", "connect below Python"},
    "system-calls": {"open a file by its number"},
    "processes": {"fork without end"},
}  # fmt: skip
"""What a machine that lacks a guard does not keep one from."""
WITHOUT = {"child": ["write a file without end"], "worker": [], "job": ["fill the memory"]}
"""A child's disk and a job's memory are watched from outside, all of them together."""
ENTER = """
import sys
from lmaas.placement import enter
from pathlib import Path
enter.WORKER = "attacks"
enter.main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""
JOB = """
import sys
from pathlib import Path
import attacks
from lmaas.jobs import child

def work(task, folder, tell):
    (folder / "told").write_bytes(attacks.run((folder / "asked").read_bytes()))
    return True

sys.exit(child.main(Path(sys.argv[1]), work))
"""


@pytest.fixture(scope="module")
def lacking() -> set[str]:
    return set(missing())


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A home with secrets, somebody who listens, and a folder for the process."""
    monkeypatch.setenv("PYTHONPATH", HERE)
    home, scratch = tmp_path / "home", tmp_path / "home" / "tmp" / "scratch"
    given = tmp_path / "home" / "run" / "model"
    for folder in (scratch, given):
        folder.mkdir(parents=True, mode=0o700)
    (home / "lmaas.db").write_text("secret")
    (home / "blob").write_text("secret")
    (given / "weights").write_text("weights")
    path = tmp_path / "s"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(path))
        local.listen()
        yield {
            "pid": os.getpid(), "home": str(home), "blob": str(home / "blob"),
            "reads": str(given / "weights"), "port": listener.getsockname()[1],
            "socket": str(path), "scratch": str(scratch),
        }  # fmt: skip


def bounds(*reads: Path) -> ChildBounds:
    return ChildBounds(
        reads=tuple(map(str, reads)),
        timeout_s=60.0,
        memory_bytes=4 << 30,
        disk_bytes=MOST_BYTES,
    )


def in_child(asked: dict[str, Any]) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "KEEP", (*sandbox.KEEP, "PYTHONPATH"))
        return sandbox.run_child(
            "attacks",
            json.dumps(asked).encode(),
            scratch=Path(asked["scratch"]),
            bounds=bounds(Path(asked["reads"]).parent),
        )


def in_worker(asked: dict[str, Any]) -> bytes:
    folder = Path(asked["scratch"])
    given = Confinement(
        reads=(str(Path(asked["reads"]).parent),),
        memory_fds=False,
        data_bytes=4 << 30,
        file_bytes=MOST_BYTES,
    )
    with socket.socket(socket.AF_UNIX) as listener:
        place = folder.parent / "w"
        listener.bind(str(place))
        listener.listen()
        rest = (str(place), str(folder.parent / "journal"), msgspec.json.encode(given).decode())
        with subprocess.Popen([sys.executable, "-c", ENTER, *rest]) as worker:
            ours, _ = listener.accept()
            with ours:
                ours.sendall(json.dumps(asked).encode())
                told = b""
                while part := ours.recv(1 << 16):
                    told += part
            assert worker.wait(60) == 0
    return told


def in_job(asked: dict[str, Any]) -> bytes:
    folder = Path(asked["scratch"])
    task = {
        "id": "j", "kind": "train", "recipe": {}, "disk_bytes": MOST_BYTES,
        "reads": [str(Path(asked["reads"]).parent)],
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(task))
    (folder / "asked").write_text(json.dumps(asked))
    with subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder)],
        stdin=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
    ) as job:
        assert job.wait(60) == 0
    return left.read(folder / "told", 1 << 20)


@pytest.mark.parametrize("start", [in_child, in_worker, in_job])
def test_a_process_that_is_taken_over_stays_in(
    asked: dict[str, Any], lacking: set[str], start: Any
) -> None:
    asked["without"] = WITHOUT[start.__name__.removeprefix("in_")]
    told = json.loads(start(asked))
    assert len(told) > 20
    allowed = set().union(*(BY_GUARD.get(name, set()) for name in lacking))
    if os.geteuid() != 0:
        # Only who may mount a /proc of its own hides from others that they are there.
        allowed |= {"see the server"}
    got = {name: how for name, how in told.items() if how != "refused"}
    assert set(got) <= allowed, got
    assert (Path(asked["home"]) / "blob").read_text() == "secret"
    assert Path(asked["reads"]).read_text() == "weights"


def test_without_isolation_the_same_tries_get_through(asked: dict[str, Any]) -> None:
    """So that a try that is refused for another reason does not pass for one that is held."""
    asked["without"] = ["fork without end", "set the clock", "mount", "write over a library",
                        "write into the machine's folder", "become root",
                        "trace the server"]  # fmt: skip
    code = "import sys, attacks; print(attacks.run(sys.argv[1]).decode())"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)],
        capture_output=True,
        check=True,
        cwd=asked["scratch"],
    )
    refused = {name for name, how in json.loads(done.stdout).items() if how == "refused"}
    # What runs the tests may itself not be looked into.
    refused -= {name for name in refused if "the server" in name}
    assert refused <= {"open a file by its number", "make a namespace"}


def test_isolation_that_is_required_is_not_passed_over(
    asked: dict[str, Any], lacking: set[str]
) -> None:
    without = "from lmaas.placement import isolation, kernel; kernel.MACHINE = 'other'; "
    told = "isolation.confine(isolation.Confinement(required=True))"
    done = subprocess.run(
        [sys.executable, "-c", without + told], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "isolation=required" in done.stderr


def test_every_refused_call_has_its_number() -> None:
    old = {"modify_ldt", "uselib", "iopl", "ioperm"}  # calls of x86 alone
    for machine, numbers in NUMBERS.items():
        absent = set(seccomp.REFUSED) - set(numbers)
        assert absent <= (old if machine != "x86_64" else set())


LEAVES = """
import os, time

def run(body):
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(0.01)
            open(os.environ["HOME"] + "/alive", "ab").write(b"x")
    alive = os.environ["HOME"] + "/alive"
    while not (os.path.exists(alive) and os.path.getsize(alive)):
        time.sleep(0.01)
    return b"{}"
"""


def test_what_leaves_its_group_ends_with_the_child(
    asked: dict[str, Any], tmp_path: Path, lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "network" in lacking:
        pytest.skip("descendants are known by their network")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "leaves.py").write_text(LEAVES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr(sandbox, "KEEP", (*sandbox.KEEP, "PYTHONPATH"))
    scratch = Path(asked["scratch"])
    sandbox.run_child("leaves", b"", scratch=scratch, bounds=bounds())
    size = (scratch / "alive").stat().st_size
    time.sleep(0.1)
    assert (scratch / "alive").stat().st_size == size > 0


def test_what_is_given_is_found_wherever_it_lies(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder of shared memory, and by links over links."""
    code = "def run(body):\n    return open(body.decode(), 'rb').read()"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "reads.py").write_text(code)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "w").write_text("weights")
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").symlink_to("../current/w")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr(sandbox, "KEEP", (*sandbox.KEEP, "PYTHONPATH"))
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY) as shared:
        shared.write(b"weights")
        shared.flush()
        for path in (tmp_path / "model" / "w", tmp_path / "current" / "w", Path(shared.name)):
            told = sandbox.run_child(
                "reads",
                str(path).encode(),
                scratch=Path(asked["scratch"]),
                bounds=bounds(*left.needed_for(path)),
            )
            assert told == b"weights"


def test_a_tree_without_end_is_refused_and_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    for look in (left.size, left.check_plain):
        with pytest.raises(ModelRefused, match="deep"):
            look(top)
    left.remove(top)
    assert not top.exists()


def test_a_folder_on_the_way_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other" / "step-1").mkdir(parents=True)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(ModelRefused):
        left.check_inside(tmp_path, tmp_path / "job" / "checkpoints" / "step-1")
    left.check_inside(tmp_path, tmp_path / "other" / "step-1")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "socket"])
def test_what_a_child_leaves_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "left" / "reply.json"
    path.parent.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "link":
            path.symlink_to(tmp_path / "secret")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            local = stack.enter_context(socket.socket(socket.AF_UNIX))
            local.bind(str(path))
        for act in (left.opened, left.appended):
            with pytest.raises(ModelRefused):
                act(path)
        if kind != "folder":
            with pytest.raises(ModelRefused):
                left.check_plain(path.parent)


def test_what_is_written_for_a_child_replaces_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in ("control", "control.new"):
        (tmp_path / name).symlink_to(tmp_path / "secret")
    left.write(tmp_path / "control", b"pause")
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "control").read_text() == "pause"
    assert not (tmp_path / "control").is_symlink()
