"""The result file of `benchmarks.gateway`: its records, the aims, and the page made of them."""

import statistics
from typing import Any, Final, Literal

import msgspec

from benchmarks.load import Window

Answers = Literal["whole", "streamed"]
BACKEND: Final = "backend"
OWN: Final = ("lmaas", "lmaas-limits")
PEER: Final = "litellm"
MOST_ADDED_MS: Final = 1.0
LEAST_RATIO: Final = 20.0


class Cell(msgspec.Struct, kw_only=True):
    """One server, way of answering and concurrency: a window for each repetition."""

    server: str
    answers: Answers
    concurrency: int
    windows: list[Window] = []

    def median(self, field: str) -> float:
        """The median of one figure over the windows."""
        return statistics.median(getattr(window, field) for window in self.windows)


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    date: str
    command: str
    machine: dict[str, Any]
    window_s: float
    chunks: int
    cells: list[Cell]

    def cell(self, server: str, answers: Answers, concurrency: int) -> Cell | None:
        """That cell, if it was measured."""
        wanted = (server, answers, concurrency)
        for cell in self.cells:
            if (cell.server, cell.answers, cell.concurrency) == wanted:
                return cell
        return None


def added_ms(cell: Cell, backend: Cell) -> float:
    """What a gateway adds to the p50 of the service behind, of one repetition; the median."""
    pairs = zip(cell.windows, backend.windows, strict=True)
    return statistics.median(one.p50_ms - other.p50_ms for one, other in pairs)


def ratio(cell: Cell, other: Cell) -> float:
    """Requests/s as a multiple of another's, of one repetition; the median."""
    pairs = zip(cell.windows, other.windows, strict=True)
    return statistics.median(
        one.requests_per_s / two.requests_per_s if two.requests_per_s else float("inf")
        for one, two in pairs
    )


def aims(report: Report) -> list[tuple[str, str, bool]]:
    """What was aimed at, what was measured, and whether it was reached."""
    rows = []
    answers: Answers
    for server in OWN:
        for answers in ("whole", "streamed"):
            own = report.cell(server, answers, 1)
            backend = report.cell(BACKEND, answers, 1)
            if own and backend:
                added = added_ms(own, backend)
                aim = f"{server}, {answers}: ≤ {MOST_ADDED_MS:g} ms added p50 at 1"
                rows.append((aim, f"{added:.2f} ms", added <= MOST_ADDED_MS))
            own, peer = report.cell(server, answers, 32), report.cell(PEER, answers, 32)
            if own and peer:
                times = ratio(own, peer)
                aim = f"{server}, {answers}: ≥ {LEAST_RATIO:g}× LiteLLM's requests/s at 32"
                rows.append((aim, f"{times:.0f}×", times >= LEAST_RATIO))
    return rows


def render(report: Report) -> str:
    """The page."""
    told = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    lines = [
        "# Gateway",
        "",
        f"{report.date}, `{report.command}`. {told}. Windows of {report.window_s:g} s, "
        f"{max(len(cell.windows) for cell in report.cells)} a cell, the servers in turn; medians. "
        "`added` and `of LiteLLM` are medians of what the windows of one repetition say. "
        "Load generator, gateway and the service behind share the cores.",
        "",
        "`backend` is the service behind, asked directly: fixed bytes; a streamed answer is "
        f"{report.chunks} chunks, each written by itself. `lmaas`: its key is checked, each "
        "request is admitted, noted in the journal and has a row in the usage ledger. "
        "`lmaas-limits`: with a key that has limits of requests and tokens a minute, of requests "
        "at once and of money, and a model that has a price. `litellm`: one worker process, as its "
        "manual wants it for a machine; it checks its master key, has no database and keeps no "
        "accounts. `litellm-2-workers`: two.",
    ]
    rows = aims(report)
    if rows:
        lines += ["", "| aim | measured | reached |", "|---|--:|---|"]
        lines += [f"| {aim} | {got} | {'yes' if ok else 'no'} |" for aim, got, ok in rows]
    for answers in dict.fromkeys(cell.answers for cell in report.cells):
        lines += [
            "",
            f"## {answers}",
            "",
            "| server | concurrent | requests/s | of LiteLLM | p50 ms | added p50 ms | p99 ms "
            "| errors |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_row(report, cell) for cell in report.cells if cell.answers == answers]
    return "\n".join(lines) + "\n"


def _row(report: Report, cell: Cell) -> str:
    backend = report.cell(BACKEND, cell.answers, cell.concurrency)
    peer = report.cell(PEER, cell.answers, cell.concurrency)
    times = f"{ratio(cell, peer):,.1f}×" if peer and peer is not cell else ""
    added = f"{added_ms(cell, backend):,.2f}" if backend and backend is not cell else ""
    return (
        f"| {cell.server} | {cell.concurrency} | {cell.median('requests_per_s'):,.0f} | {times} "
        f"| {cell.median('p50_ms'):,.2f} | {added} | {cell.median('p99_ms'):,.2f} "
        f"| {sum(window.errors for window in cell.windows)} |"
    )
