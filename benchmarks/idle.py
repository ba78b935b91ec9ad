"""What an idle server with ten loaded models takes of a core.

`make bench BENCH=idle` runs it and rewrites results/idle.json and .md. Each model is called once,
so that all that a first call starts is there; then nothing is asked, and processor time is read
from the system.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version as version_of
from pathlib import Path

import httpx
import msgspec
import psutil

from benchmarks.checkpoints import make as make_checkpoint
from benchmarks.models import make_mlp, mlp_request
from benchmarks.predictive import processor, publish
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions

RESULTS = Path(__file__).parent / "results"
PORT = 8439
PREDICTIVE = tuple(f"mlp{number}" for number in range(9))
LANGUAGE = "tiny"
SETTLE_S = 5.0


class Report(msgspec.Struct, kw_only=True):
    """Shares are of one core, over the whole window."""

    day: str
    machine: str
    versions: dict[str, str]
    models: int
    processes: int
    window_s: float
    server_share: float
    workers_share: float
    restarts: int


def prepare(
    home: Path, scratch: Path, predictive: tuple[str, ...] = PREDICTIVE, shape: str = "113m"
) -> str:
    """A home with these models and the language model; a key."""
    for name in predictive:
        publish("mlp", make_mlp(), home, called=name)
    service = Service(Settings(home=str(home)))
    try:
        folder = make_checkpoint(shape, scratch / "checkpoint")
        options = PushOptions(name=LANGUAGE, task="text-generation")
        asyncio.run(service.catalog.push(TENANT, folder, options))
        return service.create_key(TENANT, "bench", ("admin", "call"))[1]
    finally:
        service.close()


@contextlib.contextmanager
def running(home: Path) -> Iterator[psutil.Process]:
    """The server."""
    argv = [sys.executable, "-m", "lmaas", "--home", str(home), "serve", "--port", str(PORT)]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor time that they have taken."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def run(window_s: float) -> Report:
    """Load all, be idle, look."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        key = prepare(home, Path(folder))
        with (
            running(home) as server,
            httpx.Client(
                base_url=f"http://127.0.0.1:{PORT}",
                headers={"authorization": f"Bearer {key}"},
                timeout=120,
            ) as client,
        ):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health/live").is_success:
                        break
                time.sleep(0.1)
            for name in PREDICTIVE:
                client.post(f"/models/{name}", content=mlp_request(0)).raise_for_status()
            told = {"model": LANGUAGE, "prompt": "a", "max_tokens": 2}
            client.post("/v1/completions", json=told).raise_for_status()
            time.sleep(SETTLE_S)
            workers = server.children(recursive=True)
            before, began = (cpu_s([server]), cpu_s(workers)), time.perf_counter()
            time.sleep(window_s)
            after, seconds = (cpu_s([server]), cpu_s(workers)), time.perf_counter() - began
            restarts = sum(worker["restarts"] for worker in client.get("/api/workers").json())
            return Report(
                day=date.today().isoformat(),
                machine=f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
                versions={name: version_of(name) for name in ("openvino", "openvino-genai")},
                models=len(PREDICTIVE) + 1,
                processes=1 + len(workers),
                window_s=seconds,
                server_share=(after[0] - before[0]) / seconds,
                workers_share=(after[1] - before[1]) / seconds,
                restarts=restarts,
            )


def render(report: Report) -> str:
    """The result file."""
    whole = report.server_share + report.workers_share
    return f"""# An idle server

{report.day}, {report.machine}; {report.models} models are loaded, each was called once.
`make bench BENCH=idle`, {report.window_s:.0f} s.

| of one core | share |
|---|---|
| the server | {report.server_share:.2%} |
| all workers and their helpers | {report.workers_share:.2%} |
| together | {whole:.2%} |

{report.processes} processes; workers started again meanwhile: {report.restarts}.
"""


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 s instead of two minutes")
    quick = parser.parse_args().quick
    report = run(20.0 if quick else 120.0)
    sys.stdout.write(render(report))
    if not quick:
        (RESULTS / "idle.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        (RESULTS / "idle.md").write_text(render(report), "utf-8")


if __name__ == "__main__":
    main()
