"""`lmaas pull`."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from lmaas import tasks
from lmaas.cli.output import (
    home_options,
    is_quiet,
    json_option,
    printable,
    progress,
    server_options,
    service_of,
    show,
)

if TYPE_CHECKING:
    from lmaas.types import PullProgress


@click.command()
@click.argument("repo", metavar="ORG/NAME[@REVISION]")
@click.option("--name", help="The model's name here; default: the hub's NAME in lower case.")
@click.option(
    "--task",
    help=f"{', '.join(tasks.checkpoints())}; default: what the model's configs say.",
)
@click.option("--keep", is_flag=True, help="Keep the downloaded files, in LMAAS_HOME/hub.")
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    repo: str,
    name: str | None,
    task: str | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Download a model from a Hugging Face compatible hub and publish it.

    HF_ENDPOINT says which hub, HF_TOKEN who asks. Only safetensors, tokenizer and config files are
    downloaded, of one commit, and checked against the hub's digests. What broke off is continued.
    Into this home, or with --url onto a server, which downloads itself.
    """
    from lmaas.client import Client
    from lmaas.config import load_settings
    from lmaas.types import TENANT

    settings = load_settings(flags)
    if settings.url is not None:
        if keep:
            raise click.UsageError("--keep is not for --url: a server keeps no downloaded files.")
        progress(f"{settings.url} downloads {repo} …")
        with Client(settings.url, settings.key) as client:
            version = client.pull(repo, name=name, task=task)
    else:
        with service_of(flags) as service, _shown(repo, as_json) as heard:
            pull = service.catalog.pull(TENANT, repo, name=name, task=task, keep=keep, heard=heard)
            version = asyncio.run(pull)
    source = version.manifest.lineage.parent
    show(version, as_json, [f"Published {version.ref} ({version.manifest.task}) from {source}."])


@contextmanager
def _shown(repo: str, as_json: bool) -> "Iterator[Callable[[PullProgress], None]]":
    """Progress on stderr: a bar on a terminal, JSON lines with --json, nothing with --quiet."""
    import msgspec

    if is_quiet():
        yield lambda _: None
        return
    if as_json:
        yield lambda told: click.echo(msgspec.json.encode(told).decode(), err=True)
        return
    if not sys.stderr.isatty():
        progress(f"Downloading {printable(repo)} …")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking the hub", total=None)

        def heard(told: "PullProgress") -> None:
            done = told.done_bytes >= told.total_bytes
            bar.update(
                task,
                description="compiling and checking" if done else printable(told.file),
                completed=told.done_bytes,
                total=told.total_bytes,
            )

        yield heard
