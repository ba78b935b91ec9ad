"""LMaaS beside FastAPI + PyTorch and LitServe: the same weights, requests, machine and run.

`make bench` runs all of it and rewrites results/predictive.json and .md.
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
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil
import torch

import lmaas
from benchmarks.load import Plan, Window, measure
from benchmarks.models import MEAN, NUM_REQUESTS, STD, WORKLOADS, Workload, prepare
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, ImageSpec

RESULTS = Path(__file__).parent / "results"
CONCURRENCY = (1, 16, 64)
PORT = 8431
TOLERANCE = {"f32": 1e-3, "bf16": 0.05}
"""Largest difference of an answer's numbers from PyTorch's, at each precision."""
SERVERS = ("lmaas-bf16", "lmaas-f32", "fastapi-torch", "litserve")
PEERS = ("fastapi-torch", "litserve")


class Cell(msgspec.Struct, kw_only=True):
    """One server at one workload and concurrency: a window for each repetition."""

    workload: str
    server: str
    concurrency: int
    windows: list[Window] = []

    def median(self, field: str) -> float:
        """The median of one figure over the windows."""
        return float(np.median([getattr(window, field) for window in self.windows]))


class Start(msgspec.Struct, kw_only=True):
    """One server at one workload: from process start to first answer, memory, exactness."""

    workload: str
    server: str
    first_answer_s: list[float] = []
    memory_mib: list[float] = []
    max_error: float = 0.0


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    date: str
    command: str
    machine: dict[str, Any]
    window_s: float
    starts: list[Start]
    cells: list[Cell]


def publish(name: str, model: torch.nn.Module, home: Path, called: str | None = None) -> None:
    """Publish one workload's network to LMaaS, under its name or another."""
    workload = WORKLOADS[name]
    samples = np.stack([workload.sample(workload.request(i)) for i in range(4)])
    image = {
        "mlp": ImageSpec(height=28, width=28, channels=1, layout="flat"),
        "resnet18": ImageSpec(height=224, width=224, mean=MEAN, std=STD),
    }.get(name)
    task = "image-classification" if image else "tensor"
    lmaas.publish(model, name=called or name, task=task, sample=samples, image=image, home=home)


@contextlib.contextmanager
def running(server: str, name: str, folder: Path, key: str) -> Iterator[tuple[str, float, int]]:
    """A server process: its URL for `name`, seconds to its first answer, its process id."""
    environment = dict(os.environ)
    if server.startswith("lmaas"):
        environment["LMAAS_PRECISION"] = server.removeprefix("lmaas-")
        argv = ["lmaas", "--home", str(folder / "home"), "serve", "--port", str(PORT)]
        url = f"http://127.0.0.1:{PORT}/models/{name}"
    else:
        peer = {"fastapi-torch": "fastapi_torch", "litserve": "litserve_torch"}[server]
        argv = [f"benchmarks.peers.{peer}", name, str(folder), str(PORT)]
        url = f"http://127.0.0.1:{PORT}/predict"
        if peer == "fastapi_torch" and WORKLOADS[name].kind != "application/json":
            url += "/file"
    log = (folder / f"{server}.log").open("ab")
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *argv],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        body, headers = as_sent(server, WORKLOADS[name], 0, key)
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.post(url, content=body, headers=headers, timeout=60).is_success:
                    break
            if process.poll() is not None or time.perf_counter() - start > 120:
                raise SystemExit(f"{server} did not start; see {log.name}")
            time.sleep(0.02)
        yield url, time.perf_counter() - start, process.pid
    finally:
        log.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def as_sent(server: str, workload: Workload, index: int, key: str) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers: raw, but LitServe takes files as a form only."""
    body = workload.request(index)
    headers = {"Content-Type": workload.kind}
    if server.startswith("lmaas"):
        headers["Authorization"] = f"Bearer {key}"
    if server == "litserve" and workload.kind != "application/json":
        mark = "part-of-a-form"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="a.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + body + f"\r\n--{mark}--\r\n".encode()
        headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
    return body, headers


def max_error(server: str, name: str, url: str, key: str, model: torch.nn.Module) -> float:
    """Largest difference of all answers from PyTorch's own, asked sixteen at a time."""
    workload = WORKLOADS[name]

    def ask(index: int) -> Any:
        body, headers = as_sent(server, workload, index, key)
        return httpx.post(url, content=body, headers=headers, timeout=60).raise_for_status().json()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(NUM_REQUESTS)))
    samples = np.stack([workload.sample(workload.request(i)) for i in range(NUM_REQUESTS)])
    with torch.inference_mode():
        logits = model(torch.from_numpy(samples)).numpy()
    worst = 0.0
    for row, answer in zip(logits, answers, strict=True):
        if isinstance(answer, list):
            shifted = np.exp(row - row.max())
            wanted = shifted / shifted.sum()
            pairs = [(entry["score"], wanted[int(entry["label"])]) for entry in answer]
        else:
            pairs = list(zip(answer["outputs"]["output_0"], row, strict=True))
        worst = max(worst, *(abs(float(got) - float(want)) for got, want in pairs))
    return worst


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / (1 << 20)


def run(workloads: list[str], servers: list[str], window_s: float, repeats: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    torch.set_num_threads(2)
    starts = {(w, s): Start(workload=w, server=s) for w in workloads for s in servers}
    cells = {
        (w, s, c): Cell(workload=w, server=s, concurrency=c)
        for w in workloads
        for s in servers
        for c in CONCURRENCY
    }
    with tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch:
        folder = Path(scratch)
        models = {name: prepare(name, folder) for name in workloads}
        for name, model in models.items():
            publish(name, model, folder / "home")
        with contextlib.closing(Service(Settings(home=str(folder / "home")))) as service:
            _, key = service.create_key(TENANT, "benchmark", ("call",))
        for repeat in range(repeats):
            for name in workloads:
                for server in servers:
                    start = starts[name, server]
                    with running(server, name, folder, key) as (url, first_s, pid):
                        start.first_answer_s.append(first_s)
                        error = max_error(server, name, url, key, models[name])
                        start.max_error = max(start.max_error, error)
                        limit = TOLERANCE["bf16" if server.endswith("bf16") else "f32"]
                        if error > limit:
                            raise SystemExit(f"{server} {name}: wrong answers, off by {error}")
                        sent = [
                            as_sent(server, WORKLOADS[name], i, key) for i in range(NUM_REQUESTS)
                        ]
                        for concurrency in CONCURRENCY:
                            plan = Plan(
                                url=url,
                                headers=sent[0][1],
                                bodies=[body for body, _ in sent],
                                concurrency=concurrency,
                                seconds=window_s,
                                warmup_s=min(3.0, window_s / 4),
                            )
                            window = measure(plan)
                            cells[name, server, concurrency].windows.append(window)
                            sys.stderr.write(f"{repeat} {name} {server} {concurrency} {window}\n")
                        start.memory_mib.append(memory_mib(pid))
    machine = {
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "load_average_at_end": os.getloadavg()[1],
        **{p: version_of(p) for p in ("openvino", "torch", "fastapi", "litserve", "uvicorn")},
    }
    return Report(
        date=date.today().isoformat(),
        command=f"python -m benchmarks.predictive --window {window_s:g} --repeats {repeats}",
        machine=machine,
        window_s=window_s,
        starts=list(starts.values()),
        cells=list(cells.values()),
    )


def processor() -> str:
    """The CPU's model name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def render(report: Report) -> str:
    """The report as Markdown: every cell, and LMaaS as a multiple of the best peer."""
    lines = [
        "# Predictive models",
        "",
        f"{report.date}, `{report.command}`. "
        + ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + f". Windows of {report.window_s:g} s; medians over the repetitions; the load generator "
        "shares the cores. Ratios are of requests/s to the better of the two peers at the same "
        "concurrency.",
    ]
    for workload in dict.fromkeys(cell.workload for cell in report.cells):
        lines += [
            "",
            f"## {workload}",
            "",
            "| server | concurrent | requests/s | of best peer | p50 ms | p99 ms | errors |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        cells = [cell for cell in report.cells if cell.workload == workload]
        for cell in sorted(cells, key=lambda cell: (cell.concurrency, cell.server)):
            peers = [c.median("requests_per_s") for c in cells
                     if c.server in PEERS and c.concurrency == cell.concurrency]  # fmt: skip
            rate = cell.median("requests_per_s")
            ratio = f"{rate / max(peers):.2f}×" if peers else ""
            lines.append(
                f"| {cell.server} | {cell.concurrency} | {rate:,.1f} | {ratio} "
                f"| {cell.median('p50_ms'):.2f} | {cell.median('p99_ms'):.2f} "
                f"| {sum(window.errors for window in cell.windows)} |"
            )
        lines += [
            "",
            "| server | start to first answer, s | memory, MiB | largest error |",
            "|---|--:|--:|--:|",
        ]
        for start in report.starts:
            if start.workload == workload:
                lines.append(
                    f"| {start.server} | {np.median(start.first_answer_s):.2f} "
                    f"| {np.median(start.memory_mib):,.0f} | {start.max_error:.1e} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="windows of 5 s, once")
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--out", type=Path, default=RESULTS / "predictive.json")
    given = parser.parse_args()
    report = run(
        given.workload or list(WORKLOADS),
        given.server or list(SERVERS),
        5.0 if given.quick else given.window,
        1 if given.quick else given.repeats,
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
