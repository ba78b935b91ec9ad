"""`lmaas models list|show|alias|rm`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import (
    home_options,
    json_option,
    server_options,
    show,
    show_table,
    size,
)
from lmaas.cli.target import operator_of

if TYPE_CHECKING:
    from lmaas.types import ModelVersion, Variant


@click.group()
def command() -> None:
    """List, show, alias and remove models."""


@command.command("list")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], as_json: bool) -> None:
    """The latest version of every model."""
    with operator_of(flags) as operator:
        models = operator.catalog()
    columns = ("model", "task", "framework", "parameters", "size", "aliases")
    rows = [
        (
            m.ref,
            m.manifest.task,
            m.manifest.framework,
            f"{m.manifest.num_parameters:,}",
            size(m.compiled_bytes),
            " ".join(m.aliases),
        )
        for m in models
    ]
    show_table(models, as_json, columns, rows)


@command.command("show")
@click.argument("name")
@json_option
@home_options
@server_options
@click.pass_obj
def show_(flags: dict[str, Any], name: str, as_json: bool) -> None:
    """All versions of a model, each with its compressed forms."""
    with operator_of(flags) as operator:
        versions = operator.versions(name)
    columns = ("model", "framework", "parameters", "size", "f32 error", "metrics", "aliases")
    rows = [
        row
        for v in versions
        for row in (_version_row(v), *(_variant_row(variant) for variant in v.variants))
    ]
    show_table(versions, as_json, columns, rows)


def _version_row(v: "ModelVersion") -> tuple[str, ...]:
    return (
        v.ref,
        f"{v.manifest.framework} {v.manifest.framework_version}",
        f"{v.manifest.num_parameters:,}",
        size(v.compiled_bytes),
        f"{v.parity.max_abs_error('f32'):.2g}",
        " ".join(f"{metric} {value:.4g}" for metric, value in v.manifest.metrics.items()),
        " ".join(v.aliases),
    )


def _variant_row(variant: "Variant") -> tuple[str, ...]:
    report = variant.report
    told = (
        f"perplexity {report.compressed.perplexity:.4g} ({report.perplexity_rise:+.1%}) "
        f"agreement {report.token_agreement:.0%}"
    )
    return (f"  {variant.name}", "", "", size(report.compressed.size_bytes), "", told, "")


@command.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=int)
@json_option
@home_options
@server_options
@click.pass_obj
def alias(flags: dict[str, Any], name: str, alias: str, version: int, as_json: bool) -> None:
    """Point NAME@ALIAS at a version."""
    with operator_of(flags) as operator:
        moved = operator.set_alias(name, alias, version)
    show(moved, as_json, [f"{name}@{alias} is {moved.ref}."])


@command.command()
@click.argument("ref")
@click.option("--force", is_flag=True, help="Also remove aliases that point to it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@home_options
@server_options
@click.pass_obj
def rm(flags: dict[str, Any], ref: str, force: bool, yes: bool, as_json: bool) -> int:
    """Remove a version (NAME:3) or a whole model (NAME)."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(f"Nobody can be asked here: remove {ref} with --yes.")
    if not yes and not click.confirm(f"Remove {ref} and its files?", err=True):
        return 1
    with operator_of(flags) as operator:
        gone = operator.remove(ref, force=force)
    show(gone, as_json, [f"Removed {version.ref}." for version in gone])
    return 0
