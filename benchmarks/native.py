"""Native engines beside FastAPI and the same framework: models of which no conversion is proven.

`make bench BENCH=native` runs it and rewrites results/native.json and .md.
"""

import argparse
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
from typing import Any

import httpx
import msgspec
import numpy as np

import lmaas
from benchmarks.load import Plan, measure
from benchmarks.native_models import NAMES, answer, body, inputs, make_packed, make_texts
from benchmarks.predictive import CONCURRENCY, Cell, Report, Start, memory_mib, processor, render
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT

RESULTS = Path(__file__).parent / "results"
PORT = 8437
SERVERS = ("lmaas", "fastapi-torch")
"""The peer runs each model in its own framework; `render` knows it by this name."""
NUM_REQUESTS = 32
TOLERANCE = 1e-4


@contextlib.contextmanager
def running(server: str, name: str, folder: Path, key: str) -> Iterator[tuple[str, float, int]]:
    """A server process: its URL for `name`, seconds to its first answer, its process id."""
    argv = ["benchmarks.peers.fastapi_native", name, str(folder), str(PORT)]
    url = f"http://127.0.0.1:{PORT}/predict"
    if server == "lmaas":
        argv = ["lmaas", "--home", str(folder / "home"), "serve", "--port", str(PORT)]
        url = f"http://127.0.0.1:{PORT}/models/{name}"
    log = (folder / f"{server}.log").open("ab")
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *argv], stdout=log, stderr=log, start_new_session=True
    )
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                said = httpx.post(url, content=body(name, 0), headers=headers(key), timeout=60)
                if said.is_success:
                    break
            if process.poll() is not None or time.perf_counter() - start > 120:
                raise SystemExit(f"{server} did not start; see {log.name}")
            time.sleep(0.02)
        yield url, time.perf_counter() - start, process.pid
    finally:
        log.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def headers(key: str) -> dict[str, str]:
    """What both servers are sent."""
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}


def max_error(name: str, url: str, key: str, model: Any) -> float:
    """Largest difference of all answers from the model's own."""
    worst = 0.0
    for index in range(NUM_REQUESTS):
        said = httpx.post(url, content=body(name, index), headers=headers(key), timeout=60)
        (got,) = said.raise_for_status().json()["outputs"].values()
        want = answer(name, model, inputs(name, index))
        worst = max(worst, float(np.abs(np.asarray(got) - want).max()))
    return worst


def run(window_s: float, repeats: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    starts = {(n, s): Start(workload=n, server=s) for n in NAMES for s in SERVERS}
    cells = {
        (n, s, c): Cell(workload=n, server=s, concurrency=c)
        for n in NAMES
        for s in SERVERS
        for c in CONCURRENCY
    }
    with tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch:
        folder = Path(scratch)
        models = {"packed": make_packed(), "texts": make_texts(folder)}
        for name, model in models.items():
            given = inputs(name, 0, rows=4)
            sample = {
                key: np.asarray(value, np.float32 if key == "x" else None)
                for key, value in given.items()
            }
            version = lmaas.publish(
                model, name=name, task="tensor", sample=sample, home=folder / "home"
            )
            assert version.manifest.engine != "openvino", name
        with contextlib.closing(Service(Settings(home=str(folder / "home")))) as service:
            _, key = service.create_key(TENANT, "benchmark", ("call",))
        for repeat in range(repeats):
            for name, server in ((n, s) for n in NAMES for s in SERVERS):
                start = starts[name, server]
                with running(server, name, folder, key) as (url, first_s, pid):
                    start.first_answer_s.append(first_s)
                    error = max_error(name, url, key, models[name])
                    start.max_error = max(start.max_error, error)
                    if error > TOLERANCE:
                        raise SystemExit(f"{server} {name}: wrong answers, off by {error}")
                    for concurrency in CONCURRENCY:
                        plan = Plan(
                            url=url,
                            headers=headers(key),
                            bodies=[body(name, index) for index in range(NUM_REQUESTS)],
                            concurrency=concurrency,
                            seconds=window_s,
                            warmup_s=min(3.0, window_s / 4),
                        )
                        window = measure(plan)
                        cells[name, server, concurrency].windows.append(window)
                        sys.stderr.write(f"{repeat} {name} {server} {concurrency} {window}\n")
                    start.memory_mib.append(memory_mib(pid))
    packages = ("torch", "tensorflow", "keras", "fastapi", "uvicorn")
    return Report(
        date=date.today().isoformat(),
        command=f"python -m benchmarks.native --window {window_s:g} --repeats {repeats}",
        machine={
            "cores": os.cpu_count(),
            "processor": processor(),
            "python": platform.python_version(),
            "load_average_at_end": os.getloadavg()[1],
            **{package: version_of(package) for package in packages},
        },
        window_s=window_s,
        starts=list(starts.values()),
        cells=list(cells.values()),
    )


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="windows of 5 s, once")
    parser.add_argument("--window", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "native.json")
    given = parser.parse_args()
    report = run(5.0 if given.quick else given.window, 1 if given.quick else given.repeats)
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    title = (
        "# Native engines\n\n"
        "The peer is FastAPI with two workers that call the model as it is, in its own framework."
    )
    told = render(report).replace("# Predictive models", title, 1)
    given.out.with_suffix(".md").write_text(
        told.replace("fastapi-torch", "fastapi").replace("the better of the two peers", "the peer")
    )


if __name__ == "__main__":
    main()
