"""`lmaas stop NAME`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show
from lmaas.cli.references import MODEL
from lmaas.cli.target import server_of


@click.command()
@click.argument("name", type=MODEL)
@json_option
@home_options
@server_options
@click.pass_obj
def command(flags: dict[str, Any], name: str, as_json: bool) -> None:
    """Unload a model when its running requests are done.

    The next call loads it again. NAME is a model (`digits`), a version (`digits:3`) or an
    alias (`digits@production`).
    """
    with server_of(flags) as client:
        version = client.stop(name)
    show(version, as_json, [f"Stopped {version.ref}."])
