"""What a placement promises, whatever starts its processes. One list names the implementations."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ir_models import SIGNATURE, add_one
from lmaas.errors import Cancelled, InvalidInput
from lmaas.job import LOG_FILE
from lmaas.placement.base import ChildBounds, Placement
from lmaas.placement.local import LocalPlacement
from lmaas.runtime.messages import AnyMessage, Call, Done, Expect, Load, Loaded, ServeRecord
from lmaas.types import JSON, Payload

IMPLEMENTATIONS: dict[str, Callable[[Path], Placement]] = {"local": LocalPlacement}
KILLED_SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from test_placement import IMPLEMENTATIONS

async def main(place, folder):
    await place.open()
    shipment = place.ship(lambda folder: (folder.mkdir(parents=True), (folder / "w").touch()))
    await shipment.arrived
    worker = await place.start_worker([folder], print, memory_bytes=1 << 30)
    await worker.channel.connected
    program = await place.start_program(["/bin/sleep", "300"], {}, asyncio.Protocol())
    job = place.start_job(folder, [sys.executable, "-c", "import time; time.sleep(300)"])
    print(shipment.folder, worker.pid, program.pid, job.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[2])
asyncio.run(main(IMPLEMENTATIONS[sys.argv[1]](folder), folder / "job"))
"""


@pytest.fixture(params=IMPLEMENTATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(name: str, tmp_path: Path) -> Placement:
    return IMPLEMENTATIONS[name](tmp_path)


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_its_node_has_memory_and_says_always_the_same(place: Placement) -> None:
    assert place.node.name
    assert 1 << 28 < place.node.memory_bytes <= psutil.virtual_memory().total
    assert place.node == place.node


# Files


def write(folder: Path) -> None:
    assert threading.current_thread() is not threading.main_thread()
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights").write_bytes(b"weights")


def test_files_arrive_and_are_removed(place: Placement) -> None:
    async def run() -> None:
        await place.open()
        first, second = place.ship(write), place.ship(write)
        await asyncio.gather(first.arrived, second.arrived)
        assert first.folder != second.folder
        assert (first.folder / "model" / "weights").read_bytes() == b"weights"
        first.remove()
        await until(lambda: not first.folder.exists())
        assert (second.folder / "model" / "weights").exists()
        await place.close()
        assert not second.folder.exists()

    asyncio.run(run())


def test_what_does_not_arrive_says_why(place: Placement) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise InvalidInput("A file is damaged.")

    async def run() -> None:
        await place.open()
        shipment = place.ship(fail)
        with pytest.raises(InvalidInput, match="damaged"):
            await shipment.arrived
        shipment.remove()
        await until(lambda: not shipment.folder.exists())

    asyncio.run(run())


def test_what_is_removed_while_it_arrives_goes_when_it_is_there(place: Placement) -> None:
    go_on, done = threading.Event(), threading.Event()

    def slowly(folder: Path) -> None:
        assert go_on.wait(30)
        write(folder)
        done.set()

    async def run() -> None:
        await place.open()
        shipment = place.ship(slowly)
        shipment.remove()
        go_on.set()
        await until(done.is_set)
        await until(lambda: not shipment.folder.exists())

    asyncio.run(run())


# Workers


def write_model(folder: Path) -> None:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    add_one(folder / "model")


def record_of(folder: Path) -> ServeRecord:
    return ServeRecord(
        model="m:1",
        task="tensor",
        precision="f32",
        reason="",
        max_batch_size=1,
        signature=SIGNATURE,
        folder=str(folder / "model"),
    )


def test_a_worker_loads_what_was_shipped_and_answers(place: Placement) -> None:
    async def run() -> None:
        await place.open()
        shipment = place.ship(write_model)
        record = record_of(shipment.folder)
        heard: list[AnyMessage] = []
        worker = await place.start_worker(
            [Path(record.folder)], heard.append, memory_bytes=place.node.memory_bytes
        )
        await worker.channel.connected
        worker.channel.send(Expect(record=record, heartbeat_s=60.0, request_timeout_s=60.0))
        await shipment.arrived
        worker.channel.send(Load())
        await until(lambda: any(isinstance(each, Loaded) for each in heard))
        began, seen = worker.channel.last_seen, len(heard)
        body = json.dumps({"inputs": {"x": [[1, 2, 3, 4]]}}).encode()
        worker.channel.send(Call(id=7, payload=Payload(media_type=JSON, body=body)))
        await until(lambda: len(heard) > seen)
        done = heard[-1]
        assert isinstance(done, Done), done
        assert json.loads(done.answer.body)["outputs"]["y"] == [[2, 3, 4, 5]]
        assert worker.channel.last_seen >= began
        assert not gone(worker.pid)
        worker.kill()
        await worker.channel.closed
        assert await worker.wait() == -signal.SIGKILL == worker.code
        assert await worker.end() == set()
        worker.channel.send(Load())  # nobody hears it, and nothing breaks
        await place.close()
        assert not shipment.folder.exists()

    asyncio.run(run())


def test_a_worker_ends_before_it_has_connected(place: Placement, tmp_path: Path) -> None:
    async def run() -> None:
        await place.open()
        worker = await place.start_worker([tmp_path / "m"], print, memory_bytes=1 << 30)
        await worker.end()
        assert worker.code == -signal.SIGKILL
        assert gone(worker.pid)
        assert not worker.channel.connected.done()
        await worker.end()  # again changes nothing
        await place.close()

    asyncio.run(run())


# Programs


class Written(asyncio.Protocol):
    """What a program has written."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


def test_a_program_has_its_environment_alone(place: Placement) -> None:
    async def run() -> None:
        await place.open()
        written = Written()
        program = await place.start_program(["/usr/bin/env"], {"GIVEN": "this"}, written)
        assert await program.ended == 0 == program.code
        await until(lambda: b"GIVEN=this" in written.data)
        assert b"LMAAS" not in written.data
        assert b"HOME=" not in written.data
        await program.end()
        first, second = place.socket_path(), place.socket_path()
        assert first != second
        assert not first.exists()
        await place.close()

    asyncio.run(run())


def test_a_program_ends_with_all_its_processes(place: Placement) -> None:
    family = "sleep 300 & echo $!; setsid sleep 300 & echo $!; wait"

    async def run() -> None:
        await place.open()
        written = Written()
        program = await place.start_program(["/bin/sh", "-c", family], dict(PATH), written)
        await until(lambda: written.data.count(b"\n") == 2)
        pids = [program.pid, *map(int, written.data.split())]
        assert program.memory_bytes() > 0
        await program.end()
        assert program.ended.done()
        assert all(map(gone, pids))
        await place.close()

    asyncio.run(run())


PATH = {"PATH": os.environ["PATH"]}.items()


# Jobs


def job_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs" / "job-1"
    (folder / "tmp").mkdir(parents=True)
    return folder


def test_a_job_works_in_its_folder_and_its_log_grows(place: Placement, tmp_path: Path) -> None:
    folder = job_folder(tmp_path)
    code = "import os, sys; print(sys.argv[1] == os.getcwd(), 'LMAAS_KEY' in os.environ)"
    for times in (1, 2):
        job = place.start_job(folder, [sys.executable, "-c", code])
        while job.poll() is None:
            time.sleep(0.01)
        job.kill()
        assert job.poll() == 0
        assert (folder / LOG_FILE).read_text() == "True False\n" * times
    place.end_job(folder)  # nothing is left to end


def test_a_job_is_killed_with_what_it_has_started(place: Placement, tmp_path: Path) -> None:
    folder = job_folder(tmp_path)
    code = (
        "import subprocess, sys, time\n"
        "print(subprocess.Popen(['/bin/sleep', '300']).pid, flush=True)\n"
        "time.sleep(300)"
    )
    job = place.start_job(folder, [sys.executable, "-c", code])
    while not (folder / LOG_FILE).read_text().endswith("\n"):
        time.sleep(0.01)
    assert job.poll() is None
    assert job.memory_bytes() > psutil.Process(job.pid).memory_info().rss / 2
    job.kill()
    assert job.poll() == -signal.SIGKILL
    while not gone(int((folder / LOG_FILE).read_text())):  # the system takes a moment
        time.sleep(0.01)


# Sandboxed children


def test_a_child_reads_what_it_is_given_and_its_errors_are_its_own(
    place: Placement, tmp_path: Path
) -> None:
    def check(content: str) -> bytes:
        data = tmp_path / "data.csv"
        data.write_text(content)
        bounds = ChildBounds(
            reads=(str(data),), memory_bytes=4 << 30, disk_bytes=1 << 24, timeout_s=60.0
        )
        scratch = Path(tempfile.mkdtemp(dir=tmp_path))
        request = json.dumps({"path": str(data)}).encode()
        return place.run_child("lmaas.data.checking", request, scratch=scratch, bounds=bounds)

    assert check("a,b\n1,2\n") == b"{}"
    with pytest.raises(InvalidInput, match="line 3") as caught:
        check("a,b\n1,2\n1,2,3\n")
    assert caught.value.param == "file"


def test_a_child_that_nobody_waits_for_ends(place: Placement, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    bounds = ChildBounds(memory_bytes=4 << 30, disk_bytes=1 << 24, timeout_s=60.0)
    with pytest.raises(Cancelled):
        place.run_child("lmaas.data.checking", b"{}", scratch=tmp_path, bounds=bounds, stop=stop)
    here = psutil.Process().children()
    assert not [each for each in here if "lmaas.placement.child" in each.cmdline()]


# A server that was killed


def test_nothing_outlives_a_killed_server(name: str, tmp_path: Path) -> None:
    folder = job_folder(tmp_path)
    folder.rename(tmp_path / "job")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_SERVER, name, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    assert killed.returncode == -signal.SIGKILL
    shipped, *pids = killed.stdout.split()
    worker, program, job = map(int, pids)
    assert Path(shipped, "w").exists()

    async def run() -> None:
        await until(lambda: gone(worker) and gone(program))
        place = IMPLEMENTATIONS[name](tmp_path)
        await place.open()
        assert not Path(shipped).exists()
        place.end_job(tmp_path / "job")
        await until(lambda: gone(job))
        await place.close()

    asyncio.run(run())
