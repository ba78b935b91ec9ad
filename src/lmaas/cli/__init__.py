"""The command line: `lmaas`. One file a noun; each command calls one function of `service`."""

import importlib
import sys
from typing import Any

import click

from lmaas import __version__
from lmaas.errors import (
    ConfigError,
    Forbidden,
    InvalidInput,
    LMaaSError,
    NotFound,
    QueueFull,
    Unauthorized,
    Unavailable,
)

COMMANDS = {
    "push": "lmaas.cli.push",
    "serve": "lmaas.cli.serve",
    "keys": "lmaas.cli.keys",
    "models": "lmaas.cli.models",
    "demo": "lmaas.cli.demo",
    "fsck": "lmaas.cli.fsck",
}
"""Each command's module, imported when it is asked for; the module's `command` is the command."""

EXIT_CODES: list[tuple[type[LMaaSError], int]] = [
    (NotFound, 3),
    (Unauthorized, 4),
    (Forbidden, 4),
    (QueueFull, 5),
    (Unavailable, 6),
    (ConfigError, 2),
    (InvalidInput, 1),
]


class Commands(click.Group):
    """Commands that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


@click.group(
    cls=Commands,
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 over a limit, "
    "6 unavailable, 130 interrupted.",
)
@click.option("--home", help="Folder that holds all state (LMAAS_HOME; default ~/.lmaas).")
@click.version_option(__version__, package_name="lmaas")
@click.pass_context
def cli(ctx: click.Context, home: str | None) -> None:
    """Large Models as a Service, on your own machines."""
    ctx.obj = {"home": home}


def main(argv: list[str] | None = None) -> Any:
    """Run one command; errors say what is wrong and what to do next."""
    try:
        code = cli.main(argv, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except LMaaSError as error:
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"Next: {error.hint}", err=True)
        sys.exit(next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1))
    sys.exit(code if isinstance(code, int) else 0)
