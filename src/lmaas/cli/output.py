"""Results on stdout: JSON for machines, lines for people; and the service of the chosen home."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click
import msgspec

from lmaas.config import load_settings
from lmaas.service import Service

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def service_of(obj: dict[str, Any]) -> Iterator[Service]:
    """The service of the home that the command line names."""
    with closing(Service(load_settings(obj))) as service:
        yield service


def show(value: Any, as_json: bool, lines: list[str]) -> None:
    """`value` as JSON, or `lines`."""
    text = msgspec.json.encode(value).decode() if as_json else "\n".join(lines)
    if text:
        click.echo(text)
