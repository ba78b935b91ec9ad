"""`lmaas keys create|list|revoke`."""

import time
from typing import TYPE_CHECKING, Any, cast

import click

from lmaas.cli.output import home_options, json_option, server_options, show, show_table
from lmaas.cli.target import operator_of

if TYPE_CHECKING:
    from lmaas.types import Scope


@click.group()
def command() -> None:
    """Make, list and revoke API keys."""


@command.command()
@click.option("--name", required=True, help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["admin", "call"]),
              default=("call",), help="What it may do; may be given twice.")  # fmt: skip
@json_option
@home_options
@server_options
@click.pass_obj
def create(flags: dict[str, Any], name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key. Its text is shown this once."""
    import msgspec

    with operator_of(flags) as operator:
        record, text = operator.create_key(name, cast("tuple[Scope, ...]", scopes))
    show({**msgspec.to_builtins(record), "key": text}, as_json, [text])


@command.command("list")
@click.option("--all", "revoked", is_flag=True, help="Revoked keys too.")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], revoked: bool, as_json: bool) -> None:
    """List the keys that work, without their secrets."""
    with operator_of(flags) as operator:
        records = [r for r in operator.list_keys() if revoked or r.revoked_at is None]
    rows = [
        (
            r.id,
            r.name,
            ", ".join(r.scopes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(r.created_at)),
            *([("yes" if r.revoked_at else "no")] if revoked else []),
        )
        for r in records
    ]
    columns = ("id", "name", "scopes", "made", *(["revoked"] if revoked else []))
    show_table(records, as_json, columns, rows)


@command.command()
@click.argument("key_id")
@json_option
@home_options
@server_options
@click.pass_obj
def revoke(flags: dict[str, Any], key_id: str, as_json: bool) -> None:
    """End a key now."""
    with operator_of(flags) as operator:
        record = operator.revoke_key(key_id)
    show(record, as_json, [f"Revoked {record.id}."])
