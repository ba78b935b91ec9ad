"""A job's events as people and machines watch them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import is_quiet, printable, size

if TYPE_CHECKING:
    from lmaas.job import Job, StoredEvent

SHOWN = ("train_loss", "learning_rate", "samples_per_s")
"""What the line of a run shows beside the metrics of the last evaluation."""
HELD_OUT = ("valid_", "test_")


@contextmanager
def watched(as_json: bool) -> "Iterator[Callable[[StoredEvent], None]]":
    """Shows events: JSON lines on stdout, else a live bar on a terminal's stderr, else lines."""
    import msgspec

    if as_json:
        yield lambda event: click.echo(msgspec.json.encode(event).decode())
        return
    if is_quiet():
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield lambda event: click.echo(printable(event.message), err=True)
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    from lmaas.job import left_s

    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    task = bar.add_task("", total=None)
    seen: dict[str, Any] = {}
    batch_size = 0
    # Two lines: on one, a narrow terminal would show the numbers and no bar.
    with Live(Group(bar, Text("waits")), console=Console(stderr=True), transient=True) as live:

        def show(event: "StoredEvent") -> None:
            nonlocal batch_size
            if event.type == "metrics":
                seen.update(event.data)
                if "step" not in seen:
                    done, total = _done(seen)
                    bar.update(task, completed=done, total=total)
                    live.update(Group(bar, Text(line(seen))))
                    return
                left = left_s(seen, batch_size)
                told = "" if left is None else f"{timedelta(seconds=round(left))} left"
                bar.update(
                    task, completed=seen["step"], total=seen["total_steps"], description=told
                )
                live.update(Group(bar, Text(line(seen))))
            elif event.type != "checkpoint":
                if event.type == "resolved":
                    batch_size = event.data["recipe"]["batch_size"]
                live.console.print(escape(printable(event.message)), highlight=False)

        yield show


def line(seen: dict[str, Any]) -> str:
    """The numbers of a job in one line."""
    if "total_bytes" in seen:
        return f"{size(seen['done_bytes'])} of {size(seen['total_bytes'])}"
    if "stage" in seen:
        return f"{printable(str(seen['stage']))} {seen['done']:.0%}"
    names = [*SHOWN, *(name for name in seen if name.startswith(HELD_OUT))]
    return "  ".join(
        f"{_called(name)} {seen[name]:.4g}"
        for name in names
        if isinstance(seen.get(name), int | float)
    )


def _done(seen: dict[str, Any]) -> tuple[int, int]:
    """How much of how much a job that is no training has done."""
    if "total_bytes" in seen:
        return seen["done_bytes"], seen["total_bytes"]
    return round(100 * seen.get("done", 0)), 100


def _called(name: str) -> str:
    told = {"train_loss": "loss", "learning_rate": "lr", "samples_per_s": "samples/s"}
    split, _, metric = name.partition("_")
    return told.get(name, f"{metric} ({split})")


def result_lines(job: "Job") -> list[str]:
    """How a job stands, for people."""
    lines = [f"{job.id}  {job.name}  {job.state}"]
    if job.model is not None and job.kind == "compress":
        lines.append(f"The variant is registered with {job.model}.")
    elif job.model is not None:
        lines.append(f"Registered as {job.model}: `lmaas predict {job.model} …`")
    if numbers := line(job.progress):
        lines.append(numbers)
    lines += [f"Warning: {printable(text)}" for text in job.progress.get("warnings", ())]
    if job.error is not None:
        lines.append(f"Error: {printable(job.error.message)}")
        if job.error.hint:
            lines.append(f"Next: {printable(job.error.hint)}")
    return lines
