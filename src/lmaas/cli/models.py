"""`lmaas models list|show|alias|rm`."""

from typing import Any

import click

from lmaas.cli.output import json_option, service_of, show
from lmaas.types import TENANT


@click.group()
def command() -> None:
    """List, show, alias and remove models."""


@command.command("list")
@json_option
@click.pass_obj
def list_(obj: dict[str, Any], as_json: bool) -> None:
    """The latest version of every model."""
    with service_of(obj) as service:
        models = service.models(TENANT)
    show(
        models, as_json, [f"{m.ref:32} {m.manifest.task:24} {m.manifest.framework}" for m in models]
    )


@command.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_(obj: dict[str, Any], name: str, as_json: bool) -> None:
    """All versions of a model."""
    with service_of(obj) as service:
        versions = service.versions(TENANT, name)
    lines = [
        f"{v.ref:32} f32 error {v.parity.max_abs_error('f32'):.2g}  {' '.join(v.aliases)}"
        for v in versions
    ]
    show(versions, as_json, lines)


@command.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=int)
@json_option
@click.pass_obj
def alias(obj: dict[str, Any], name: str, alias: str, version: int, as_json: bool) -> None:
    """Point NAME@ALIAS at a version."""
    with service_of(obj) as service:
        moved = service.set_alias(TENANT, name, alias, version)
    show(moved, as_json, [f"{name}@{alias} is {moved.ref}."])


@command.command()
@click.argument("ref")
@click.option("--force", is_flag=True, help="Also remove aliases that point to it.")
@json_option
@click.pass_obj
def rm(obj: dict[str, Any], ref: str, force: bool, as_json: bool) -> None:
    """Remove a version (NAME:3) or a whole model (NAME)."""
    with service_of(obj) as service:
        gone = service.remove(TENANT, ref, force=force)
    show(gone, as_json, [f"Removed {version.ref}." for version in gone])
