"""LMaaS as a gateway: what it adds to another service's answers, beside the LiteLLM proxy.

The service behind is `tests/upstream_server.py`, whose answers are fixed bytes. All three run
during the whole benchmark and are measured in turn. `make bench BENCH=gateway` rewrites
results/gateway.json and .md; `--litellm` names the proxy's program in its own environment.
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
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from benchmarks.load import Plan, Window, measure
from benchmarks.predictive import RESULTS, processor
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, ConnectBody, UpstreamSpec

PORTS: Final = {"backend": 8441, "lmaas": 8442, "litellm": 8443}
CONCURRENCY: Final = (1, 32)
BACKEND_KEY: Final = "sk-behind"
LITELLM_KEY: Final = "sk-benchmark"
START_S: Final = 180.0
MESSAGES: Final = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Greet me and ask how I am. " * 8},
]
CONFIG: Final = """
model_list:
  - model_name: echo
    litellm_params:
      model: openai/echo
      api_base: http://127.0.0.1:{port}/v1
      api_key: {key}
general_settings:
  master_key: {master}
litellm_settings:
  request_timeout: 60
  set_verbose: false
"""


class Cell(msgspec.Struct, kw_only=True):
    """One server at one way of answering and one concurrency: a window for each repetition."""

    server: str
    streamed: bool
    concurrency: int
    windows: list[Window] = []

    def median(self, field: str) -> float:
        """The median of one figure over the windows."""
        return float(np.median([getattr(window, field) for window in self.windows]))


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    date: str
    command: str
    machine: dict[str, Any]
    window_s: float
    cells: list[Cell]

    def cell(self, server: str, *, streamed: bool, concurrency: int) -> Cell:
        """That cell."""
        return next(
            cell
            for cell in self.cells
            if (cell.server, cell.streamed, cell.concurrency) == (server, streamed, concurrency)
        )


@contextlib.contextmanager
def process(argv: list[str], environ: Mapping[str, str], log: Path) -> Iterator[None]:
    """A process group of its own, ended with the block."""
    with log.open("wb") as file:
        child = subprocess.Popen(
            argv, env=dict(environ), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def plan_of(server: str, key: str, *, streamed: bool, concurrency: int, seconds: float) -> Plan:
    """What is sent to a server."""
    body: dict[str, object] = {"model": "echo", "messages": MESSAGES, "max_tokens": 32}
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Plan(
        url=f"http://127.0.0.1:{PORTS[server]}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        bodies=[msgspec.json.encode(body)],
        concurrency=concurrency,
        seconds=seconds,
        warmup_s=min(2.0, seconds / 3),
    )


def wait_for(server: str, key: str, log: Path) -> None:
    """Until the server answers as the service behind does, whole and streamed."""
    end = time.monotonic() + START_S
    while True:
        plan = plan_of(server, key, streamed=False, concurrency=1, seconds=1)
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(plan.url, content=plan.bodies[0], headers=plan.headers, timeout=30)
            if answer.is_success:
                break
        if time.monotonic() > end:
            raise SystemExit(f"{server} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)
    text = answer.json()["choices"][0]["message"]["content"]
    plan = plan_of(server, key, streamed=True, concurrency=1, seconds=1)
    streamed = httpx.post(plan.url, content=plan.bodies[0], headers=plan.headers, timeout=30)
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    deltas = [c["delta"] for e in events for c in msgspec.json.decode(e)["choices"]]
    pieces = "".join(delta.get("content") or "" for delta in deltas)
    if not text == pieces == "Hello there, how are you?":
        raise SystemExit(f"{server} gives other answers: {text!r}, streamed {pieces!r}")


def run(litellm: str | None, window_s: float, repeats: int, workers: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    servers = ["backend", "lmaas"] + (["litellm"] if litellm else [])
    cells = [
        Cell(server=server, streamed=streamed, concurrency=concurrency)
        for streamed in (False, True)
        for concurrency in CONCURRENCY
        for server in servers
    ]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lmaas-bench-")))
        logs = {server: folder / f"{server}.log" for server in servers}
        behind = [sys.executable, "tests/upstream_server.py", str(PORTS["backend"])]
        stack.enter_context(process(behind, os.environ, logs["backend"]))
        wait_for("backend", BACKEND_KEY, logs["backend"])
        keys = {"backend": BACKEND_KEY, "lmaas": connect(folder / "home"), "litellm": LITELLM_KEY}
        home = str(folder / "home")
        port = str(PORTS["lmaas"])
        own = [sys.executable, "-m", "lmaas", "--home", home, "serve", "--port", port]
        environ = {**os.environ, "BEHIND_API_KEY": BACKEND_KEY}
        stack.enter_context(process(own, environ, logs["lmaas"]))
        if litellm:
            config = folder / "litellm.yaml"
            config.write_text(
                CONFIG.format(port=PORTS["backend"], key=BACKEND_KEY, master=LITELLM_KEY)
            )
            argv = [litellm, "--config", str(config), "--host", "127.0.0.1"]
            argv += ["--port", str(PORTS["litellm"]), "--num_workers", str(workers)]
            argv += ["--telemetry", "False"]
            environ = {
                **os.environ,
                "LITELLM_LOG": "ERROR",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            }
            stack.enter_context(process(argv, environ, logs["litellm"]))
        for server in servers:
            wait_for(server, keys[server], logs[server])
        for repeat in range(repeats):
            for cell in cells:
                plan = plan_of(
                    cell.server,
                    keys[cell.server],
                    streamed=cell.streamed,
                    concurrency=cell.concurrency,
                    seconds=window_s,
                )
                window = measure(plan)
                cell.windows.append(window)
                sys.stderr.write(
                    f"{repeat} {cell.server} {'streamed' if cell.streamed else 'whole'} "
                    f"{cell.concurrency} {window}\n"
                )
    machine = {
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "load_average_at_end": os.getloadavg()[1],
    }
    if litellm:
        machine |= {"litellm": version(litellm), "litellm_workers": workers}
    return Report(
        date=date.today().isoformat(),
        command=f"python -m benchmarks.gateway --window {window_s:g} --repeats {repeats}",
        machine=machine,
        window_s=window_s,
        cells=cells,
    )


def connect(home: Path) -> str:
    """Connect LMaaS to the service behind; the key to call it."""
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        url = f"http://127.0.0.1:{PORTS['backend']}/v1"
        spec = UpstreamSpec(url=url, model="echo", key_env="BEHIND_API_KEY")
        asyncio.run(service.connect_upstream(TENANT, ConnectBody(name="echo", upstream=spec)))
        return service.create_key(TENANT, "benchmark", ("call",))[1]


def version(litellm: str) -> str:
    """The proxy's version."""
    python = Path(litellm).with_name("python")
    told = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run([python, "-c", told], capture_output=True, text=True).stdout.strip()


def render(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        "# Gateway",
        "",
        f"{report.date}, `{report.command}`. "
        + ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + f". Windows of {report.window_s:g} s, {len(report.cells[0].windows)} a cell, medians; "
        "load generator, gateway and the service behind share the cores. "
        "`backend` is the service behind, asked directly. LMaaS checks the key, holds the limits "
        "and writes a usage row for each request; LiteLLM checks its master key and has no "
        "database.",
        "",
        "| answers | concurrent | server | requests/s | of LiteLLM | p50 ms | added p50 ms "
        "| p99 ms | errors |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    servers = {cell.server for cell in report.cells}
    for cell in report.cells:
        at: dict[str, Any] = {"streamed": cell.streamed, "concurrency": cell.concurrency}
        rate, p50 = cell.median("requests_per_s"), cell.median("p50_ms")
        ratio, added = "", ""
        if "litellm" in servers and cell.server != "litellm":
            ratio = f"{rate / report.cell('litellm', **at).median('requests_per_s'):.1f}×"
        if cell.server != "backend":
            added = f"{p50 - report.cell('backend', **at).median('p50_ms'):.2f}"
        lines.append(
            f"| {'streamed' if cell.streamed else 'whole'} | {cell.concurrency} | {cell.server} "
            f"| {rate:,.0f} | {ratio} | {p50:.2f} | {added} | {cell.median('p99_ms'):.2f} "
            f"| {sum(window.errors for window in cell.windows)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="windows of 2 s, once")
    parser.add_argument("--window", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--litellm", default=os.environ.get("LITELLM"), help="its program")
    parser.add_argument("--litellm-workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway.json")
    given = parser.parse_args()
    report = run(
        given.litellm,
        2.0 if given.quick else given.window,
        1 if given.quick else given.repeats,
        given.litellm_workers,
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
