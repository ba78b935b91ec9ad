"""`lmaas pull`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lmaas import tasks
from lmaas.cli.output import (
    home_options,
    json_option,
    printable,
    server_options,
    show,
)
from lmaas.cli.queued import detach_option, followed, shown

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@click.command()
@click.argument("repo", metavar="ORG/NAME[@REVISION]")
@click.option("--name", help="The model's name here; default: the hub's NAME in lower case.")
@click.option(
    "--task",
    help=f"{', '.join(tasks.checkpoints())}; default: what the model's configs say.",
)
@click.option("--keep", is_flag=True, help="Keep the downloaded files, in LMAAS_HOME/hub.")
@detach_option
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
    detach: bool,
    as_json: bool,
) -> None:
    """Download a model from a Hugging Face compatible hub and publish it.

    HF_ENDPOINT says which hub, HF_TOKEN who asks. Only safetensors, tokenizer and config files are
    downloaded, of one commit, and checked against the hub's digests. What broke off is continued.
    Into this home, or with --url onto a server, which downloads itself. It is a job: this home's
    server runs it, or without one this command. After Ctrl-C the server goes on with it, or the
    next one, or the same command.
    """
    from lmaas.config import load_settings
    from lmaas.hub.api import own_endpoint, own_token
    from lmaas.types import TENANT, PullBody

    url = load_settings(flags).url
    if url is not None and keep:
        raise click.UsageError("--keep is not for --url: a server keeps no downloaded files.")
    body = PullBody(repo=repo, name=name, task=task, token=own_token())
    version = followed(
        flags,
        lambda client: client.start_pull(repo, name=name, task=task),
        lambda service: service.model_jobs.pull(TENANT, body, keep=keep, endpoint=own_endpoint()),
        lambda: shown(
            f"{url} downloads {repo} …" if url else f"Downloading {repo} …",
            as_json,
            _columns,
            _told,
        ),
        detach=detach,
        as_json=as_json,
    )
    if version is None:
        return
    source = version.manifest.lineage.parent
    show(version, as_json, [f"Published {version.ref} ({version.manifest.task}) from {source}."])


def _columns() -> "Sequence[ProgressColumn]":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )


def _told(data: dict[str, Any]) -> dict[str, Any]:
    done = data["done_bytes"] >= data["total_bytes"]
    return {
        "description": "compiling and checking" if done else printable(data["file"]),
        "completed": data["done_bytes"],
        "total": data["total_bytes"],
    }
