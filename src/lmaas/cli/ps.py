"""`lmaas ps`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show_table, size
from lmaas.cli.target import server_of

COLUMNS = (
    "model", "state", "engine", "variant", "precision", "pid", "memory",
    "requests", "queued", "restarts", "pinned", "idle", "reason",
)  # fmt: skip


@click.command()
@json_option
@home_options
@server_options
@click.pass_obj
def command(flags: dict[str, Any], as_json: bool) -> None:
    """List the loaded models with their engine, variant and precision, and the reason for each."""
    with server_of(flags) as client:
        workers = client.ps()
    rows = [
        (
            w.model,
            w.state,
            w.engine,
            w.variant or "-",
            w.precision or "-",
            w.pid or "-",
            size(w.memory_bytes),
            w.requests,
            w.queued,
            w.restarts,
            "yes" if w.pinned else "no",
            f"{w.idle_s:.0f} s",
            w.reason,
        )
        for w in workers
    ]
    show_table(workers, as_json, COLUMNS, rows)
