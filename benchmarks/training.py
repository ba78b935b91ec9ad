"""LMaaS's training jobs beside the plain loop of the same framework, in one run.

`make bench BENCH=training` runs all of it and rewrites results/training.json and .md; what is not
measured now keeps what it had. A side is the process that a job is, or that the plain loop is; the
two take turns within each repetition.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from benchmarks.predictive import RESULTS, processor
from benchmarks.training_workloads import WORKLOADS, Workload, base
from lmaas.jobs.child import NICENESS, Task
from lmaas.jobs.process import COMMAND, log_tail, prepare, read_events, tell
from lmaas.placement.job import LocalJob
from lmaas.recipe import Recipe

WARM: Final = 0.25
"""The share of the steps that is not timed: compiling, first touch of memory."""
LONGEST_S: Final = 600
SIDES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "job": {},
    "job bf16": {"precision": "bf16"},
    "job, 2 workers": {"distribution": {"workers": 2}},
}


class Run(msgspec.Struct, kw_only=True):
    """One run of one side: its speed, its first step after its process began, its largest size."""

    samples_per_s: float
    first_step_s: float
    memory_mib: float


class Cell(msgspec.Struct, kw_only=True):
    """One side of one workload in one framework: a run for each repetition of a day's run."""

    workload: str
    framework: str
    side: str
    date: str
    runs: list[Run] = []

    def median(self, field: str) -> float:
        """The median of one figure over the runs."""
        return float(np.median([getattr(run, field) for run in self.runs]))


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    machine: dict[str, Any]
    cells: list[Cell]


class Mark(NamedTuple):
    """So many steps were done at this time."""

    step: int
    at: float


def plain(recipe: Recipe, folder: Path, model: Path | None) -> Run:
    """Run the framework's own loop."""
    path = folder / "recipe.json"
    path.write_bytes(msgspec.json.encode(recipe))
    # As nice as a job's process, which gives way to answering.
    argv = [
        "nice",
        "-n",
        str(NICENESS),
        sys.executable,
        "-m",
        "benchmarks.peers.plain_training",
        str(path),
        str(folder),
    ]
    began = time.time()
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*argv, *([str(model)] if model else [])], stdout=subprocess.PIPE, stderr=log
        )
        marks, memory = [], 0.0
        try:
            assert child.stdout is not None
            for line in child.stdout:
                step, at = line.split()
                marks.append(Mark(int(step), float(at)))
                memory = max(memory, peak_mib(child.pid))
            code = child.wait(LONGEST_S)
        finally:
            child.kill()
            child.wait()
    if code:
        raise RuntimeError((folder / "log").read_text()[-2000:])
    return figures(recipe, marks, began, memory)


def job(recipe: Recipe, folder: Path, model: Path | None) -> Run:
    """Run a job's process as the queue does; end it when nothing but packaging is left."""
    task = Task(
        id="measured",
        kind="train",
        recipe=msgspec.to_builtins(recipe),
        reads=() if model is None else (str(model),),
        base=None if model is None else str(model),
    )
    prepare(folder)
    tell(folder, task)
    began = time.time()
    child = LocalJob(folder, COMMAND)
    marks, memory, offset, done = [], 0.0, 0, False
    try:
        while not done:
            if time.time() - began > LONGEST_S or child.poll() not in (None, 0):
                raise RuntimeError(log_tail(folder))
            time.sleep(0.05)
            events, offset = read_events(folder, offset)
            for event in events:
                if event.type == "metrics":
                    marks.append(Mark(event.data["step"], event.created_at))
                done = done or event.message.startswith("Packaging")
            if not done:
                memory = max(memory, peak_mib(child.pid))
    finally:
        child.kill()
    return figures(recipe, marks, began, memory)


def figures(recipe: Recipe, marks: Sequence[Mark], began: float, memory_mib: float) -> Run:
    """What the marks say of the steps after the warm-up."""
    assert recipe.steps is not None
    assert recipe.batch_size != "auto"
    timed = [mark for mark in marks if mark.step >= max(1, WARM * recipe.steps)]
    if len(timed) < 2:
        raise RuntimeError(f"Too few steps were timed: {marks}.")
    first, last = timed[0], timed[-1]
    return Run(
        samples_per_s=(last.step - first.step) * recipe.batch_size / (last.at - first.at),
        first_step_s=marks[0].at - began,
        memory_mib=memory_mib,
    )


def peak_mib(pid: int) -> float:
    """The largest resident size that a process has had."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def sides(name: str, framework: str) -> Iterator[str]:
    """What is run of a workload: the plain loop, the job, and where it says more, others."""
    yield from ("plain", "job")
    if framework == "pytorch":
        if name != "mlp":
            yield "job bf16"
        yield "job, 2 workers"


def measure(name: str, framework: str, repeats: int, share: float) -> list[Cell]:
    """All sides of one workload in one framework, in turns."""
    workload: Workload = WORKLOADS[name]
    if share < 1:
        workload = workload._replace(steps=max(4, round(share * workload.steps)))
    today = date.today().isoformat()
    cells = [
        Cell(workload=name, framework=framework, side=side, date=today)
        for side in sides(name, framework)
    ]
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        for repeat in range(repeats):
            for number, cell in enumerate(cells):
                recipe = workload.recipe(framework, data, **SIDES[cell.side])
                folder = Path(place) / f"{repeat}-{number}"
                folder.mkdir()
                model = base(data) if name.startswith("lm") else None
                side = plain if cell.side == "plain" else job
                cell.runs.append(side(recipe, folder, model))
                print(name, framework, cell.side, cell.runs[-1], file=sys.stderr, flush=True)
    return cells


def render(report: Report) -> str:
    """The report as Markdown: every side, and its multiple of the plain loop."""
    lines = [
        "# Training",
        "",
        ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + ". Medians over the repetitions, in which the sides take turns; ratios are medians of "
        "the repetitions' own ratios to the plain loop. First step: from the start of the process, "
        "reading of the data included.",
        "",
        "| network | framework | side | samples/s | of plain | first step, s | memory, MiB "
        "| over plain, MiB |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    of = {(cell.workload, cell.framework, cell.side): cell for cell in report.cells}
    for cell in report.cells:
        plain_cell = of[cell.workload, cell.framework, "plain"]
        ratio = np.median(
            [a.samples_per_s / b.samples_per_s
             for a, b in zip(cell.runs, plain_cell.runs, strict=True)]
        )  # fmt: skip
        over = cell.median("memory_mib") - plain_cell.median("memory_mib")
        shown = cell.side != "plain"
        lines.append(
            f"| {cell.workload} | {cell.framework} | {cell.side} "
            f"| {cell.median('samples_per_s'):,.1f} | {f'{ratio:.2f}×' if shown else ''} "
            f"| {cell.median('first_step_s'):.1f} | {cell.median('memory_mib'):,.0f} "
            f"| {f'{over:+,.0f}' if shown else ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a third of the steps, once unless told"
    )
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--framework", action="append", choices=("pytorch", "keras", "tensorflow"))
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    given = parser.parse_args()
    repeats = given.repeats or (1 if given.quick else 3)
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        **{name: import_module(name).__version__ for name in ("torch", "keras", "tensorflow")},
    }
    known: dict[tuple[str, str, str], Cell] = {}
    if given.out.exists():
        old = msgspec.json.decode(given.out.read_bytes(), type=Report)
        known = {(cell.workload, cell.framework, cell.side): cell for cell in old.cells}
    for name in given.workload or WORKLOADS:
        for framework in given.framework or WORKLOADS[name].frameworks:
            if framework not in WORKLOADS[name].frameworks:
                continue
            for cell in measure(name, framework, repeats, 0.34 if given.quick else 1):
                known[cell.workload, cell.framework, cell.side] = cell
            report = Report(machine=machine, cells=list(known.values()))
            given.out.write_bytes(
                msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
            )
            given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
