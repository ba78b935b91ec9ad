"""LMaaS as a gateway: what it adds to another service's answers, beside the LiteLLM proxy.

The service behind is `benchmarks.gateway_backend`, whose answers are fixed bytes. All servers run
during the whole benchmark and are measured in turn. `make bench BENCH=gateway` rewrites
results/gateway.json and .md; `--litellm` names the proxy's program in an environment of its own.
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
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from benchmarks import gateway_backend as behind
from benchmarks.gateway_report import BACKEND, Answers, Cell, Report, aims, render
from benchmarks.load import Plan, measure
from benchmarks.peers import litellm_proxy
from benchmarks.predictive import RESULTS, processor
from lmaas.accounts.records import Limits, Price
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, ConnectBody, UpstreamSpec

CONCURRENCY: Final = (1, 32)
ANSWERS: Final[tuple[Answers, ...]] = ("whole", "streamed")
PORTS: Final = {
    BACKEND: 8441,
    "lmaas": 8442,
    "lmaas-limits": 8442,
    "litellm": 8443,
    "litellm-2-workers": 8444,
}
MODEL: Final = "behind"
BACKEND_KEY: Final = "sk-behind"
START_S: Final = 180.0
MESSAGES: Final = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Say a word for each number from zero to twenty-three. " * 4},
]
LIMITS: Final = Limits(
    requests_per_minute=1_000_000_000,
    tokens_per_minute=1_000_000_000,
    concurrent=1000,
    budget_micro=1_000_000_000_000,
    period="month",
)
"""So high that nothing is refused: what they cost is measured."""
PRICE: Final = Price(prompt_micro=100_000, completion_micro=400_000)


@contextlib.contextmanager
def process(argv: list[str], environ: Mapping[str, str], log: Path) -> Iterator[None]:
    """A process group of its own, ended with the block."""
    with log.open("wb") as file:
        child = subprocess.Popen(
            argv, env={**os.environ, **environ}, stdout=file, stderr=file, start_new_session=True
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


def plan_of(server: str, key: str, answers: Answers, concurrency: int, seconds: float) -> Plan:
    """What is sent to a server."""
    body: dict[str, object] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 64}
    if answers == "streamed":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Plan(
        url=f"http://127.0.0.1:{PORTS[server]}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        bodies=[msgspec.json.encode(body)],
        concurrency=concurrency,
        seconds=seconds,
        warmup_s=min(2.0, seconds / 3),
    )


def check(server: str, key: str, log: Path) -> None:
    """Until the server answers; its text and usage, whole and streamed, are those behind it."""
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = _ask(plan_of(server, key, "whole", 1, 1))
            if answer.is_success:
                break
        if time.monotonic() > end:
            raise SystemExit(f"{server} does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)
    told = answer.json()
    streamed = _ask(plan_of(server, key, "streamed", 1, 1)).text.splitlines()
    chunks = [msgspec.json.decode(line[6:]) for line in streamed if line.startswith("data: {")]
    pieces = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    seen = {
        "text": told["choices"][0]["message"]["content"],
        "streamed text": "".join(piece.get("content") or "" for piece in pieces),
        "tokens": told["usage"]["completion_tokens"],
        "streamed tokens": chunks[-1]["usage"]["completion_tokens"],
        "mark": "data: [DONE]" in streamed,
    }
    count = len(behind.WORDS)
    if list(seen.values()) != [behind.TEXT, behind.TEXT, count, count, True]:
        raise SystemExit(f"{server} gives other answers than the service behind: {seen}")


def _ask(plan: Plan) -> httpx.Response:
    return httpx.post(plan.url, content=plan.bodies[0], headers=plan.headers, timeout=60)


def connect(home: Path) -> dict[str, str]:
    """Connect LMaaS to the service behind; a key without limits, and one with all of them."""
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        url = f"http://127.0.0.1:{PORTS[BACKEND]}/v1"
        spec = UpstreamSpec(url=url, model="behind-1", key_env="BEHIND_API_KEY")
        asyncio.run(service.catalog.connect(TENANT, ConnectBody(name=MODEL, upstream=spec)))
        service.set_price(TENANT, MODEL, PRICE)
        return {
            "lmaas": service.create_key(TENANT, "free", ("call",))[1],
            "lmaas-limits": service.create_key(TENANT, "limited", ("call",), LIMITS)[1],
        }


@contextlib.contextmanager
def running(litellm: str | None, folder: Path) -> Iterator[dict[str, str]]:
    """All servers, ready and checked: the key of each."""
    with contextlib.ExitStack() as stack:
        keys = {BACKEND: BACKEND_KEY}

        def start(server: str, argv: list[str], environ: Mapping[str, str]) -> None:
            log = folder / f"{server}.log"
            stack.enter_context(process(argv, environ, log))
            check(server, keys[server], log)

        argv = [sys.executable, "-m", "benchmarks.gateway_backend", str(PORTS[BACKEND])]
        start(BACKEND, argv, {})
        home = folder / "home"
        keys |= connect(home)
        argv = [sys.executable, "-m", "lmaas", "--home", str(home), "serve"]
        start("lmaas", [*argv, "--port", str(PORTS["lmaas"])], {"BEHIND_API_KEY": BACKEND_KEY})
        check("lmaas-limits", keys["lmaas-limits"], folder / "lmaas.log")
        for server, workers in (("litellm", 1), ("litellm-2-workers", 2)) if litellm else ():
            assert litellm
            keys[server] = litellm_proxy.KEY
            argv = litellm_proxy.argv(
                litellm,
                folder,
                url=f"http://127.0.0.1:{PORTS[BACKEND]}/v1",
                key=BACKEND_KEY,
                port=PORTS[server],
                workers=workers,
            )
            start(server, argv, litellm_proxy.ENVIRON)
        yield keys


def run(litellm: str | None, window_s: float, repeats: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch,
        running(litellm, Path(scratch)) as keys,
    ):
        cells = [
            Cell(server=server, answers=answers, concurrency=concurrency)
            for answers in ANSWERS
            for concurrency in CONCURRENCY
            for server in keys
        ]
        for repeat in range(repeats):
            for cell in cells:
                key = keys[cell.server]
                plan = plan_of(cell.server, key, cell.answers, cell.concurrency, window_s)
                window = measure(plan)
                cell.windows.append(window)
                sys.stderr.write(
                    f"{repeat} {cell.server} {cell.answers} {cell.concurrency} {window}\n"
                )
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average_before": round(load, 2),
        **{name: version_of(name) for name in ("uvloop", "httptools", "msgspec")},
    }
    if litellm:
        machine["litellm"] = litellm_proxy.version(litellm)
    return Report(
        date=date.today().isoformat(),
        command=f"python -m benchmarks.gateway --window {window_s:g} --repeats {repeats}",
        machine=machine,
        window_s=window_s,
        chunks=len(behind.STREAMED),
        cells=cells,
    )


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="windows of 2 s, once")
    parser.add_argument("--window", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--litellm", default=os.environ.get("LITELLM"), help="its program")
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway.json")
    given = parser.parse_args()
    window_s, repeats = (2.0, 1) if given.quick else (given.window, given.repeats)
    report = run(given.litellm, window_s, repeats)
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))
    for aim, got, ok in aims(report):
        sys.stderr.write(f"{'reached' if ok else 'missed'}: {aim}: {got}\n")


if __name__ == "__main__":
    main()
