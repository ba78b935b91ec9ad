"""`lmaas serve`."""

from typing import Any

import click

from lmaas.cli.output import home_options, is_quiet


@click.command()
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free port.")
@click.option("--grpc-port", type=int, help="Port for gRPC; 0 picks a free port. Default: no gRPC.")
@home_options
@click.pass_obj
def command(
    flags: dict[str, Any], host: str | None, port: int | None, grpc_port: int | None
) -> int:
    """Start the server for this home. Ctrl-C stops it."""
    from lmaas.config import load_settings
    from lmaas.http.server import run

    level = "warning" if is_quiet() else None
    given = {"host": host, "port": port, "grpc_port": grpc_port, "log_level": level}
    return run(load_settings({**flags, **given}))
