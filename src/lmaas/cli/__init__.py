"""The command line: `lmaas`. One file a noun; each command calls one function of `service`.

Commands are imported when they are asked for, and what they need when they run, so that
`lmaas --help` answers at once.
"""

import difflib
import importlib
import sys
from typing import Any, NoReturn

import click

from lmaas import __version__
from lmaas.cli.errors import EXIT_CODES_TEXT, INTERRUPTED, report
from lmaas.cli.output import home_options, server_options

COMMANDS = {
    "demo": "lmaas.cli.demo",
    "serve": "lmaas.cli.serve",
    "pull": "lmaas.cli.pull",
    "push": "lmaas.cli.push",
    "train": "lmaas.cli.train",
    "jobs": "lmaas.cli.jobs",
    "webhooks": "lmaas.cli.webhooks",
    "compress": "lmaas.cli.compress",
    "pipeline": "lmaas.cli.pipeline",
    "chat": "lmaas.cli.chat",
    "predict": "lmaas.cli.predict",
    "models": "lmaas.cli.models",
    "keys": "lmaas.cli.keys",
    "usage": "lmaas.cli.usage",
    "prices": "lmaas.cli.prices",
    "ps": "lmaas.cli.ps",
    "stop": "lmaas.cli.stop",
    "fsck": "lmaas.cli.fsck",
    "doctor": "lmaas.cli.doctor",
}
"""Each command's module, imported when it is asked for; the module's `command` is the command."""

SERVER_COMMANDS = (
    "pull",
    "push",
    "train",
    "jobs",
    "compress",
    "pipeline",
    "chat",
    "predict",
    "models",
    "keys",
    "usage",
    "prices",
    "ps",
    "stop",
)
"""Commands that can talk to a server; the others work on the home of this machine."""


class Commands(click.Group):
    """Commands that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with the nearest name: click knows no lazy ones."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command {args[0]!r}. {meant}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EXIT_CODES_TEXT)
@home_options
@server_options
@click.version_option(__version__, package_name="lmaas")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Large Models as a Service, on your own machines."""
    flags = ctx.ensure_object(dict)
    for name in ("url", "key"):
        if name in flags and ctx.invoked_subcommand not in SERVER_COMMANDS:
            raise click.UsageError(
                f"--{name} is not for `lmaas {ctx.invoked_subcommand}`, which works on the home "
                f"of this machine; it is for {', '.join(SERVER_COMMANDS)}.",
            )


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit; errors say what is wrong and what to do next."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code: Any = cli.main(arguments, prog_name="lmaas", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the outermost frame: every failure becomes a text
        sys.exit(report(error, as_json="--json" in arguments))
    sys.exit(code if isinstance(code, int) else 0)
