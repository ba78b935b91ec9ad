"""Models that see: LMaaS beside its peers, with the same weights, images and machine, in one run.

`make bench BENCH=vision` runs all parts and rewrites results/vision.json and .md.
"""

import argparse
import os
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from benchmarks import vision_chat, vision_detector, vision_pipeline
from benchmarks.load import Window
from benchmarks.predictive import processor
from benchmarks.vision_parts import Part

RESULTS: Final = Path(__file__).parent / "results"
PARTS: Final[dict[str, Part]] = {
    **vision_detector.PARTS,
    **vision_pipeline.PARTS,
    **vision_chat.PARTS,
}
VERSIONS: Final = ("openvino", "openvino-genai", "onnxruntime", "fastapi", "uvicorn", "pillow")


class Cell(msgspec.Struct, kw_only=True):
    """One server of a part with so many callers: a window for each repetition."""

    part: str
    server: str
    callers: int
    windows: list[Window] = []

    def median(self, field: str) -> float:
        """The median of one figure over the windows."""
        return float(np.median([getattr(window, field) for window in self.windows]))


class Report(msgspec.Struct, kw_only=True):
    """The result file. `load_averages` are the machine's before each server was started."""

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    window_s: float
    load_averages: list[float]
    cells: list[Cell]


def run(names: list[str], window_s: float, repeats: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    cells: list[Cell] = []
    loads = []
    for name in names:
        part = PARTS[name]
        own = {
            (server, callers): Cell(part=name, server=server, callers=callers)
            for server in part.servers
            for callers in part.callers
        }
        with tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch:
            ready = part.prepare(Path(scratch))
            for repeat in range(repeats):
                for server in part.servers:
                    loads.append(os.getloadavg()[0])
                    with part.running(ready, server) as ask:
                        for callers in part.callers:
                            window = ask(callers, window_s)
                            own[server, callers].windows.append(window)
                            sys.stderr.write(f"{repeat} {name} {server} {callers} {window}\n")
        cells += own.values()
    return Report(
        date=date.today().isoformat(),
        command=f"python -m benchmarks.vision {' '.join(sys.argv[1:])}".strip(),
        machine=f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        versions={name: version_of(name) for name in VERSIONS},
        window_s=window_s,
        load_averages=[round(load, 1) for load in loads],
        cells=cells,
    )


def render(report: Report) -> str:
    """The report as Markdown: every cell, and ours as a multiple of the best peer."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    loads = report.load_averages
    lines = [
        "# Models that see",
        "",
        f"{report.date}. {report.machine}. {versions}. `{report.command}`. Windows of "
        f"{report.window_s:g} s; medians over the repetitions; the load generator shares the "
        f"cores, on which other work left a load average of {min(loads)} to {max(loads)}. Ratios "
        "are of requests/s to the better of the peers with as many callers.",
    ]
    for name in dict.fromkeys(cell.part for cell in report.cells):
        part = PARTS[name]
        lines += [
            "",
            f"## {part.does}",
            "",
            f"Goal: {part.goal:g} times the best peer.",
            "",
            "| server | callers | requests/s | of best peer | p50 ms | p99 ms | errors |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        cells = [cell for cell in report.cells if cell.part == name]
        for cell in sorted(cells, key=lambda cell: (cell.callers, cell.server)):
            rates = [
                other.median("requests_per_s")
                for other in cells
                if other.callers == cell.callers and not other.server.startswith("lmaas")
            ]
            rate = cell.median("requests_per_s")
            lines.append(
                f"| {cell.server} | {cell.callers} | {rate:,.1f} | {rate / max(rates):.2f}x "
                f"| {cell.median('p50_ms'):.1f} | {cell.median('p99_ms'):.1f} "
                f"| {sum(window.errors for window in cell.windows)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="windows of 3 s, once")
    parser.add_argument("--window", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "vision.json")
    given = parser.parse_args()
    report = run(
        given.part or list(PARTS),
        3.0 if given.quick else given.window,
        1 if given.quick else given.repeats,
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
