"""`lmaas serve`."""

from typing import Any

import click

from lmaas.cli.output import home_options, is_quiet


@click.command()
@click.option("--host", help="Address to bind; loopback by default.")
@click.option("--port", type=int, help="Port to bind; 0 takes a free one.")
@click.option("--grpc-port", type=int, help="Port of gRPC; 0 takes a free one. Default: none.")
@home_options
@click.pass_obj
def command(
    flags: dict[str, Any], host: str | None, port: int | None, grpc_port: int | None
) -> int:
    """Serve the models of this home until Ctrl-C."""
    from lmaas.config import load_settings
    from lmaas.http.server import run

    level = "warning" if is_quiet() else None
    given = {"host": host, "port": port, "grpc_port": grpc_port, "log_level": level}
    return run(load_settings({**flags, **given}))
