"""The result file of `benchmarks.generation`: its records, the aims, and the page made of them."""

import statistics
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import msgspec

from benchmarks.streams import Window

PEERS = {
    "bf16": ("vllm-bf16", "llama-server-bf16", "llama-cpp-python-bf16"),
    "int8": ("llama-server-q8_0",),
    "int4": ("llama-server-q4_0",),
}


class Cell(msgspec.Struct, kw_only=True):
    """One server at one workload and concurrency (0: open loop): a window for each repetition."""

    server: str
    workload: str
    concurrency: int
    windows: list[Window] = []

    def median(self, field: str) -> float:
        """The median of one figure over the windows."""
        return statistics.median(getattr(window, field) for window in self.windows)


class Server(msgspec.Struct, kw_only=True):
    """One server: process start to first token, memory at the end, its answer to one prompt."""

    name: str
    first_token_s: list[float] = []
    memory_mib: list[float] = []
    text: str = ""
    missing: str = ""


class Section(msgspec.Struct, kw_only=True):
    """One model's run. `variants` are the sizes of LMaaS's compressed forms, MB."""

    model: str
    date: str
    command: str
    load_average_before: float
    variants: dict[str, float]
    servers: list[Server]
    cells: list[Cell]
    notes: list[str] = []

    def value(self, server: str, workload: str, level: int, field: str) -> float | None:
        """A median, or None where it was not measured."""
        for cell in self.cells:
            if (cell.server, cell.workload, cell.concurrency) == (server, workload, level):
                return cell.median(field)
        return None


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    machine: dict[str, Any]
    versions: dict[str, str]
    sections: list[Section]


def aims(section: Section) -> list[tuple[str, str, bool]]:
    """What was aimed at, what was measured, and whether it was reached."""

    def rate(server: str, level: int, workload: str = "unique") -> float | None:
        return section.value(server, workload, level, "tokens_per_s")

    rows = []
    for form in ("bf16", "int8", "int4"):
        ours, bare = rate(f"lmaas-{form}", 32), rate(f"in-process-{form}", 32)
        if ours and bare:
            share = ours / bare
            rows.append(
                (f"{form}: ≥ 95 % of in-process tok/s at 32", f"{share:.1%}", share >= 0.95)
            )
        http = section.value(f"lmaas-{form}", "unique", 1, "ttft_p50_ms")
        alone = section.value(f"in-process-{form}", "unique", 1, "ttft_p50_ms")
        if http and alone:
            added = http - alone
            rows.append((f"{form}: ≤ 5 ms added to TTFT at 1", f"{added:+.1f} ms", added <= 5))
        for level in (1, 8, 32):
            rows += _against(form, level, rate(f"lmaas-{form}", level), [
                (peer, rate(peer, level)) for peer in PEERS[form]])  # fmt: skip
        ours = rate(f"lmaas-{form}-lookup", 1, "repetitive")
        found = [rate(peer, 1, "repetitive") for peer in PEERS[form]]
        best = max((value for value in found if value), default=None)
        if ours and best:
            name = f"{form}, prompt lookup: ahead of the best peer on repetitive text at 1"
            rows.append((name, f"{ours / best:.2f}×", ours > best))
    for server in section.servers:
        if server.name in ("lmaas-bf16", "lmaas-int8", "lmaas-int4") and server.first_token_s:
            first = statistics.median(server.first_token_s)
            rows.append(
                (f"{server.name}: start to first token ≤ 3 s", f"{first:.2f} s", first <= 3)
            )
    return rows


def _against(
    form: str, level: int, ours: float | None, peers: Sequence[tuple[str, float | None]]
) -> list[tuple[str, str, bool]]:
    known = [(peer, value) for peer, value in peers if value]
    if not ours or not known:
        return []
    if level == 1:
        peer, best = max(known, key=lambda pair: pair[1])
        share = ours / best
        return [
            (f"{form}: at 1 within 10 % of the best peer ({peer})", f"{share:.2f}×", share >= 0.9)
        ]
    return [
        (f"{form}: ahead of {peer} at {level}", f"{ours / value:.2f}×", ours > value)
        for peer, value in known
    ]


def agreement(section: Section, server: Server) -> str:
    """How much of its greedy answer is lmaas-bf16's, from the first character on."""
    reference = next((s.text for s in section.servers if s.name == "lmaas-bf16"), "")
    if not reference or not server.text:
        return ""
    pairs = zip(reference, server.text, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return f"{same / len(reference):.0%}"


def _table(section: Section, workload: str) -> list[str]:
    lines = [
        "",
        f"### {workload}",
        "",
        "| server | concurrent | tok/s | TTFT p50 ms | p99 | per token p50 ms | p99 "
        "| goodput/s | errors |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    cells = [cell for cell in section.cells if cell.workload == workload]
    for cell in sorted(cells, key=lambda cell: cell.concurrency):
        lines.append(  # noqa: PERF401 - a row is long enough without a comprehension around it
            f"| {cell.server} | {cell.concurrency or 'open'} | {cell.median('tokens_per_s'):,.1f} "
            f"| {cell.median('ttft_p50_ms'):,.1f} | {cell.median('ttft_p99_ms'):,.1f} "
            f"| {cell.median('tpot_p50_ms'):.2f} | {cell.median('tpot_p99_ms'):.2f} "
            f"| {cell.median('goodput_per_s'):.2f} "
            f"| {sum(window.errors for window in cell.windows)} |"
        )
    return lines


def render(report: Report) -> str:
    """The page."""
    told = report.machine | report.versions
    lines = [
        "# Generation",
        "",
        ", ".join(f"{name} {value}" for name, value in told.items())
        + ". Qwen3-shaped models with seeded random weights; greedy; 128 new tokens a request. "
        "unique: 128 prompt tokens of their own; shared: 256 in common and 32 of their own; "
        "repetitive: 16 tokens again and again, 128 in all. open: Poisson arrivals at 70 % of the "
        "requests/s that the server itself got at 32. Goodput: requests/s with TTFT ≤ 1 s and "
        "≤ 100 ms a token. Tokens are counted by each server's `usage`; an answer of another "
        "length is an error. Medians over the repetitions; the load generator shares the cores. "
        "Memory: RSS of the process tree, with the cache as far as it was allocated.",
        "",
        "GPU (`torch` engine against transformers' `generate`): not measured, no GPU was lent.",
    ]
    for section in report.sections:
        lines += [
            "",
            f"## {section.model}",
            "",
            f"{section.date}, `{section.command}`. Load average before: "
            f"{section.load_average_before:.2f}. Weights, MB: "
            + ", ".join(f"{name} {size:,.0f}" for name, size in section.variants.items())
            + ".",
        ]
        for note in section.notes:
            lines += ["", note]
        lines += ["", "| aim | measured | reached |", "|---|--:|---|"]
        lines += [f"| {aim} | {got} | {'yes' if ok else 'no'} |" for aim, got, ok in aims(section)]
        for workload in dict.fromkeys(cell.workload for cell in section.cells):
            lines += _table(section, workload)
        lines += [
            "",
            "### start and memory",
            "",
            "| server | start to first token, s | memory, MiB | answer like lmaas-bf16's |",
            "|---|--:|--:|--:|",
        ]
        for server in section.servers:
            if server.missing:
                lines.append(f"| {server.name} | not measured: {server.missing} | | |")
            elif server.first_token_s:
                lines.append(
                    f"| {server.name} | {statistics.median(server.first_token_s):.2f} "
                    f"| {statistics.median(server.memory_mib):,.0f} "
                    f"| {agreement(section, server)} |"
                )
    return "\n".join(lines) + "\n"
