"""`lmaas serve`."""

from typing import Any

import click

from lmaas.cli.output import home_options, is_quiet


@click.command()
@click.option("--host", help="Address to bind; loopback by default.")
@click.option("--port", type=int, help="Port to bind; 0 takes a free one.")
@home_options
@click.pass_obj
def command(flags: dict[str, Any], host: str | None, port: int | None) -> int:
    """Serve the models of this home until Ctrl-C."""
    from lmaas.config import load_settings
    from lmaas.http.server import run

    level = "warning" if is_quiet() else None
    return run(load_settings({**flags, "host": host, "port": port, "log_level": level}))
