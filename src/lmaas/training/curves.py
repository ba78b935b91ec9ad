"""The learning curves of a run, from what it told: a table (CSV) and a picture (PNG).

Knows the events' file of a job's folder, no framework and no queue.
"""

import csv
import math
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.job import CURVES_FILE, EVENTS_FILE, METRICS_FILE, JobEvent
from lmaas.types import UNREADABLE

FIRST: Final[tuple[str, ...]] = ("step", "epoch", "train_loss", "learning_rate", "samples_per_s")
LEFT_OUT: Final = "total_steps"
LOSSES: Final[tuple[str, ...]] = ("train_loss", "valid_loss")
INCHES: Final = (10.0, 6.0)
DPI: Final = 110


class Rows:
    """What is known of each step, in order.

    A run that was taken up again tells steps anew: what it had told from there on is dropped.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def add(self, event: JobEvent) -> None:
        """Count an event; those that tell no metrics are passed over."""
        if event.type != "metrics" or not isinstance(step := event.data.get("step"), int):
            return
        if self._rows and step < next(reversed(self._rows)):
            self._rows = {known: row for known, row in self._rows.items() if known < step}
        told = {name: value for name, value in event.data.items() if name != LEFT_OUT}
        self._rows.setdefault(step, {}).update(told)

    def all(self) -> list[dict[str, Any]]:
        """A row for each step that something is known of."""
        return list(self._rows.values())

    def columns(self) -> list[str]:
        """The names of the columns: those that every run has, then the metrics as they came."""
        names = dict.fromkeys(name for row in self._rows.values() for name in row)
        return [*(n for n in FIRST if n in names), *(n for n in names if n not in FIRST)]


def read(folder: Path) -> Rows:
    """The rows of the job in `folder`, none where nothing was told."""
    rows = Rows()
    try:
        with (folder / EVENTS_FILE).open("rb") as lines:
            for line in lines:
                try:
                    rows.add(msgspec.json.decode(line, type=JobEvent))
                except UNREADABLE:
                    continue
    except FileNotFoundError:
        pass
    return rows


def write(folder: Path) -> str | None:
    """Write the files into `folder`; what is to be told where the picture cannot be made.

    Nothing is written where no metrics were told. Raises OSError.
    """
    rows = read(folder)
    if not rows.all():
        return None
    part = folder / f"{METRICS_FILE}.new"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows.columns(), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.all())
    part.replace(folder / METRICS_FILE)
    try:
        draw(rows, folder / CURVES_FILE)
    except ModuleNotFoundError as error:
        return f"No {CURVES_FILE}: {error.name} is not installed (pip install 'lmaas[train]')."
    return None


def draw(rows: Rows, path: Path) -> None:
    """The losses, the metrics of the held-out samples and the learning rate over the steps.

    No display and no state of the process: a figure of its own. Raises ModuleNotFoundError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = [n for n in rows.columns() if n.startswith("valid_") and n not in LOSSES]
    panels = [("loss", [n for n in LOSSES if n in rows.columns()])]
    # Shares and what has no upper end do not go on one axis.
    shares = [name for name in metrics if all(0 <= y <= 1 for _, y in _points(rows, name))]
    panels += [("held-out samples", shares)] if shares else []
    panels += [(name, [name]) for name in metrics if name not in shares]
    panels += [("learning rate", ["learning_rate"])]
    columns = 2
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(INCHES[0], INCHES[1] * lines / 2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (title, names) in zip(grid, panels, strict=False):
        for name in names:
            points = _points(rows, name)
            marker = "" if len(points) > 40 else "."
            axis.plot(*zip(*points, strict=True) if points else ([], []), marker=marker, label=name)
        axis.set_title(title.removeprefix("valid_"), fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8)
    for axis in grid[len(panels) :]:
        axis.remove()
    part = path.with_name(f"{path.name}.new")
    figure.savefig(part, format="png")
    part.replace(path)


def _points(rows: Rows, name: str) -> list[tuple[int, float]]:
    return [
        (row["step"], float(value))
        for row in rows.all()
        if isinstance(value := row.get(name), int | float) and math.isfinite(value)
    ]
