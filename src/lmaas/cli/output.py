"""What commands share: options, progress on stderr, results on stdout as JSON, lines or a table."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lmaas.service import Service

F = TypeVar("F", bound=Callable[..., Any])
QUIET = "lmaas.quiet"
WIDE = 1000
"""Columns of a table: a terminal breaks long lines, but no cell is cut or folded."""


def home_options(command: F) -> F:
    """`--home` and `--quiet`, before or after the command's name."""
    command = _flag(
        "--home", help="Folder that holds all state. Default: LMAAS_HOME, or ~/.lmaas."
    )(command)
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_hush,
        help="Do not show progress.",
    )(command)


def server_options(command: F) -> F:
    """`--url` and `--key`, before or after the command's name."""
    url = _flag(
        "--url", help="URL of the server. Default: LMAAS_URL, or this home's running server."
    )
    key = _flag(
        "--key", help="API key. Prefer LMAAS_KEY: command lines are visible to other users."
    )
    return url(key(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _flag(name: str, **settings: Any) -> Callable[[F], F]:
    return click.option(name, expose_value=False, callback=_remember, **settings)


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().ensure_object(dict)[param.name] = value


def _hush(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[QUIET] = True


@contextmanager
def service_of(flags: dict[str, Any]) -> "Iterator[Service]":
    """The service of the home that the command line names."""
    from lmaas.config import load_settings
    from lmaas.service import Service

    with closing(Service(load_settings(flags))) as service:
        yield service


def progress(text: str) -> None:
    """Tell on stderr what goes on, unless --quiet."""
    if not is_quiet():
        click.echo(text, err=True)


def is_quiet() -> bool:
    """Whether --quiet is given."""
    return QUIET in click.get_current_context().meta


def show(value: Any, as_json: bool, lines: Sequence[str]) -> None:
    """`value` as JSON, or `lines`."""
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(value).decode())
        return
    for line in lines:
        click.echo(line)


def show_table(
    value: Any, as_json: bool, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """`value` as JSON, or `rows` as a table."""
    if as_json:
        show(value, True, ())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(file=sys.stdout, width=WIDE, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def printable(text: str) -> str:
    """`text` without characters that steer a terminal; a label may come from anybody."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
