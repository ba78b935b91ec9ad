"""A job's events as people and machines watch them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import is_quiet, printable

if TYPE_CHECKING:
    from lmaas.job import Job, StoredEvent

SHOWN = ("train_loss", "learning_rate", "samples_per_s")
"""What the line of a run shows beside the metrics of the last evaluation."""


@contextmanager
def watched(as_json: bool) -> "Iterator[Callable[[StoredEvent], None]]":
    """Shows events: JSON lines on stdout, else a live line on a terminal's stderr, else lines."""
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
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waits", total=None)
        seen: dict[str, Any] = {}

        def show(event: "StoredEvent") -> None:
            if event.type == "metrics":
                seen.update(event.data)
                bar.update(
                    task,
                    completed=seen.get("step", 0),
                    total=seen.get("total_steps"),
                    description=escape(line(seen)),
                )
            elif event.type == "checkpoint":
                bar.update(task, description=escape(line(seen)))
            else:
                bar.console.print(escape(printable(event.message)), highlight=False)

        yield show


def line(seen: dict[str, Any]) -> str:
    """The numbers of a run in one line."""
    names = [*SHOWN, *(name for name in seen if name.startswith("valid_"))]
    told = {"train_loss": "loss", "learning_rate": "lr", "samples_per_s": "samples/s"}
    return "  ".join(
        f"{told.get(name, name.removeprefix('valid_') + ' (valid)')} {seen[name]:.4g}"
        for name in names
        if isinstance(seen.get(name), int | float)
    )


def result_lines(job: "Job") -> list[str]:
    """How a job stands, for people."""
    lines = [f"{job.id}  {job.name}  {job.state}"]
    if job.model is not None:
        lines.append(f"Registered as {job.model}: `lmaas predict {job.model} …`")
    if numbers := line(job.progress):
        lines.append(numbers)
    if job.error is not None:
        lines.append(f"Error: {printable(job.error.message)}")
        if job.error.hint:
            lines.append(f"Next: {printable(job.error.hint)}")
    return lines
