"""`lmaas serve`."""

from typing import Any

import click

from lmaas.config import load_settings


@click.command()
@click.option("--host", help="Address to bind; loopback by default.")
@click.option("--port", type=int, help="Port to bind; 0 takes a free one.")
@click.pass_obj
def command(obj: dict[str, Any], host: str | None, port: int | None) -> int:
    """Serve the models of this home until Ctrl-C."""
    from lmaas.http.server import run

    return run(load_settings({**obj, "host": host, "port": port}))
