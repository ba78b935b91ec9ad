"""`lmaas pipeline NAME`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show
from lmaas.cli.references import ModelReference
from lmaas.cli.target import operator_of

NEW = ModelReference(("name",), "Leave the version out: the pipeline becomes the next version.")


@click.command()
@click.argument("name", type=NEW)
@click.option("--task", required=True, help="Task of the pipeline; docs/pipelines.md lists them.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    required=True,
    metavar="ROLE=MODEL",
    help="A part: its role and NAME, NAME:3 or NAME@ALIAS. Repeatable.",
)
@click.option("--card", default="", help="A description for the model card.")
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any], name: str, task: str, parts: tuple[str, ...], card: str, as_json: bool
) -> None:
    """Make one model, NAME, of several: a detector and what looks at each thing that it finds.

    The parts are copied as they are now, so the pipeline stays as it is when they change.
    """
    named: dict[str, str] = {}
    for part in parts:
        role, equals, ref = part.partition("=")
        if not (role and equals and ref):
            raise click.UsageError(f"--part is ROLE=MODEL; received {part!r}.")
        if role in named:
            raise click.UsageError(f"--part {role} is given twice.")
        named[role] = ref
    with operator_of(flags) as operator:
        version = operator.make_pipeline(name, task=task, parts=named, card=card)
    told = ", ".join(f"{part.role} {part.model}" for part in version.manifest.parts)
    show(version, as_json, [f"{version.ref} is made of {told}."])
