"""`lmaas models list|show|card|connect|alias|rm`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import (
    home_options,
    json_option,
    printable,
    server_options,
    show,
    show_table,
    size,
)
from lmaas.cli.references import MODEL, ModelReference
from lmaas.cli.target import operator_of

if TYPE_CHECKING:
    from lmaas.types import ModelVersion, Variant

NEW = ModelReference(
    ("name",), "Leave the version out: the connected model becomes the next version."
)


@click.group()
def command() -> None:
    """Manage models: list, show, card, connect, alias, rm."""


@command.command("list")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], as_json: bool) -> None:
    """List the latest version of every model."""
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
@click.argument("ref", type=MODEL)
@json_option
@home_options
@server_options
@click.pass_obj
def show_(flags: dict[str, Any], ref: str, as_json: bool) -> None:
    """All versions of a model (NAME), or one (NAME:3 or NAME@ALIAS), each with its compressed
    variants; of the newest, how it is served and each check against its source.
    """
    from lmaas.telling import checks_of, lines_of

    one = ":" in ref or "@" in ref
    with operator_of(flags) as operator:
        versions = [operator.model(ref)] if one else operator.versions(ref)
    columns = ("model", "framework", "parameters", "size", "f32 error", "metrics", "aliases")
    rows = [
        row
        for v in versions
        for row in (_version_row(v), *(_variant_row(variant) for variant in v.variants))
    ]
    show_table(versions, as_json, columns, rows)
    if as_json:
        return
    newest = versions[-1]
    show(newest, False, ["", *(printable(line) for line in lines_of(newest)), ""])
    if checks := checks_of(newest):
        names = ("precision", "inputs", "rows", "error", "of the largest", "passed")
        show_table(newest, False, names, checks)


@command.command()
@click.argument("ref", type=MODEL)
@json_option
@home_options
@server_options
@click.pass_obj
def card(flags: dict[str, Any], ref: str, as_json: bool) -> None:
    """The model card of a version (NAME, NAME:3 or NAME@ALIAS), in Markdown."""
    with operator_of(flags) as operator:
        version = operator.model(ref)
    text = version.manifest.card
    show({"card": text}, as_json, [printable(line) for line in text.splitlines()])


def _version_row(v: "ModelVersion") -> tuple[str, ...]:
    return (
        v.ref,
        f"{v.manifest.framework} {v.manifest.framework_version}",
        f"{v.manifest.num_parameters:,}",
        size(v.compiled_bytes),
        f"{v.parity.max_abs_error('f32'):.2g}" if v.parity.checks else "-",
        " ".join(f"{metric} {value:.4g}" for metric, value in v.manifest.metrics.items()),
        " ".join(v.aliases),
    )


def _variant_row(variant: "Variant") -> tuple[str, ...]:
    from lmaas.serving.variant import value_of

    report = variant.report
    told = (
        f"{report.metric} {value_of(report.compressed, report):.4g} ({report.drop:+.1%} worse) "
        f"agreement {report.token_agreement:.0%}"
    )
    return (f"  {variant.name}", "", "", size(report.compressed.size_bytes), "", told, "")


@command.command()
@click.argument("name", type=NEW)
@click.option("--base-url", required=True, help="Base URL of the service, such as https://host/v1.")
@click.option("--model", required=True, help="Name of the model at the service.")
@click.option(
    "--task",
    type=click.Choice(("text-generation", "embedding")),
    default="text-generation",
    help="Task of the model.",
)
@click.option("--key-env", help="Environment variable of the server that holds the API key.")
@click.option(
    "--dialect",
    type=click.Choice(("compatible", "openai", "vllm")),
    default="compatible",
    help="Request fields that the service accepts; vllm adds top_k, min_p and more.",
)
@click.option("--context-length", type=int, help="Maximum tokens of prompt and answer together.")
@click.option("--images", is_flag=True, help="The model takes images.")
@json_option
@home_options
@server_options
@click.pass_obj
def connect(
    flags: dict[str, Any],
    name: str,
    base_url: str,
    model: str,
    task: str,
    key_env: str | None,
    dialect: str,
    context_length: int | None,
    images: bool,
    as_json: bool,
) -> None:
    """Register a model of another OpenAI-compatible service as NAME.

    The API key is not stored. --key-env names an environment variable that the server reads; its
    name ends in _API_KEY.
    """
    import msgspec

    from lmaas.errors import InvalidInput
    from lmaas.types import ConnectBody

    given = {
        "url": base_url,
        "model": model,
        "key_env": key_env,
        "dialect": dialect,
        "context_length": context_length,
        "accepts": ("text", "image") if images else None,
    }
    upstream = {field: value for field, value in given.items() if value is not None}
    try:
        body = msgspec.convert({"name": name, "task": task, "upstream": upstream}, ConnectBody)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"This cannot be connected: {error}.") from None
    with operator_of(flags) as operator:
        version = operator.connect_upstream(body)
    show(version, as_json, [f"{version.ref} is {model} at {base_url}."])


@command.command()
@click.argument("ref", type=MODEL)
@click.argument("alias")
@click.argument("version", type=int, required=False)
@json_option
@home_options
@server_options
@click.pass_obj
def alias(flags: dict[str, Any], ref: str, alias: str, version: int | None, as_json: bool) -> None:
    """Point NAME@ALIAS at a version: at VERSION, or the one that REF names (NAME:3, NAME@OTHER, or
    NAME: the newest).
    """
    if version is not None and (":" in ref or "@" in ref):
        raise click.UsageError(f"{ref} already names a version: leave {version} out.")
    with operator_of(flags) as operator:
        named = operator.model(ref if version is None else f"{ref}:{version}")
        moved = operator.set_alias(named.name, alias, named.version)
    show(moved, as_json, [f"{moved.name}@{alias} is {moved.ref}."])


@command.command()
@click.argument("ref", type=MODEL)
@click.option("--force", is_flag=True, help="Also remove the aliases that point to it.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@home_options
@server_options
@click.pass_obj
def rm(flags: dict[str, Any], ref: str, force: bool, yes: bool, as_json: bool) -> int:
    """Remove a version (NAME:3 or NAME@ALIAS) or a whole model (NAME)."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(
            f"Standard input is not a terminal: confirm the removal of {ref} with --yes."
        )
    if not yes and not click.confirm(f"Remove {ref} and its files?", err=True):
        return 1
    with operator_of(flags) as operator:
        gone = operator.remove(ref, force=force)
    show(gone, as_json, [f"Removed {version.ref}." for version in gone])
    return 0
