"""`lmaas keys create|list|revoke`."""

from typing import Any, cast

import click
import msgspec

from lmaas.cli.output import json_option, service_of, show
from lmaas.types import TENANT, Scope


@click.group()
def command() -> None:
    """Make, list and revoke API keys."""


@command.command()
@click.option("--name", required=True, help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["admin", "call"]),
              default=("call",), help="What it may do; may be given twice.")  # fmt: skip
@json_option
@click.pass_obj
def create(obj: dict[str, Any], name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key. Its text is shown this once."""
    with service_of(obj) as service:
        record, text = service.create_key(TENANT, name, cast(tuple[Scope, ...], scopes))
    show({**msgspec.to_builtins(record), "key": text}, as_json, [text])


@command.command("list")
@json_option
@click.pass_obj
def list_(obj: dict[str, Any], as_json: bool) -> None:
    """List keys, without their secrets."""
    with service_of(obj) as service:
        records = service.list_keys(TENANT)
    lines = [
        f"{r.id}  {'revoked' if r.revoked_at else ','.join(r.scopes):12}  {r.name}" for r in records
    ]
    show(records, as_json, lines)


@command.command()
@click.argument("key_id")
@json_option
@click.pass_obj
def revoke(obj: dict[str, Any], key_id: str, as_json: bool) -> None:
    """End a key now."""
    with service_of(obj) as service:
        record = service.revoke_key(TENANT, key_id)
    show(record, as_json, [f"Revoked {record.id}."])
