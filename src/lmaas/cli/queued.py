"""What commands that queue a job share: waiting for it, its progress, and what Ctrl-C leaves."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.job_progress import result_lines
from lmaas.cli.output import is_quiet, printable, progress, service_of, show

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from lmaas.client import Client
    from lmaas.job import Job, StoredEvent
    from lmaas.service import Service
    from lmaas.types import ModelVersion

    Heard = Callable[[StoredEvent], None]

detach_option = click.option(
    "--detach", is_flag=True, help="Queue the job and exit without waiting."
)


def show_queued(job: "Job", as_json: bool, *, lives: bool) -> None:
    """The job that was queued, and what to do about it next."""
    next_ = f"`lmaas jobs watch {job.id}`" if lives else "the next `lmaas serve` runs it"
    show(job, as_json, [f"Queued {job.id}: {next_}."])


def lives(flags: dict[str, Any]) -> bool:
    """Whether a server of the home that the command line names is there to run its jobs."""
    from lmaas.config import load_settings
    from lmaas.registry.lock import HomeLock

    return HomeLock.read(load_settings(flags).home_path) is not None


@contextmanager
def interruptible(job: "Job", *, lives: bool) -> Iterator[None]:
    """Tells on Ctrl-C what becomes of the job."""
    try:
        yield
    except KeyboardInterrupt:
        where = "goes on at the server" if lives else "goes on at the next `lmaas serve`"
        progress(
            f"The job {job.id} {where}; `lmaas jobs watch {job.id}` follows it, "
            f"`lmaas jobs cancel {job.id}` ends it."
        )
        raise


def followed(
    flags: dict[str, Any],
    at: "Callable[[Client], Job]",
    here: "Callable[[Service], Job]",
    progress_at: "Callable[[], AbstractContextManager[Heard]]",
    *,
    detach: bool,
    as_json: bool,
) -> "ModelVersion | None":
    """The version of a job that is queued `at` the server that is named, or `here` in this home.

    None where the job was only queued, or is paused: then that is shown. Raises what it failed
    with.
    """
    from lmaas.client import Client
    from lmaas.config import load_settings
    from lmaas.types import TENANT

    settings = load_settings(flags)
    if settings.url is not None:
        with Client(settings.url, settings.key) as client:
            job = at(client)
            if detach:
                show_queued(job, as_json, lives=True)
                return None
            with interruptible(job, lives=True), progress_at() as heard:
                job = client.wait_for_job(job.id, heard)
            return None if paused(job, as_json) else client.model(str(job.model))
    with service_of(flags) as service:
        job = here(service)
        if detach:
            show_queued(job, as_json, lives=lives(flags))
            return None
        with interruptible(job, lives=lives(flags)), progress_at() as heard:
            job = see_through(service, job, heard)
        return None if paused(job, as_json) else service.catalog.get(TENANT, str(job.model))


def see_through(service: "Service", job: "Job", heard: "Heard") -> "Job":
    """The job once it is done, by this home's server or in this process.

    Raises what it failed with.
    """
    import asyncio

    from lmaas.job import raise_error

    job = asyncio.run(service.model_jobs.see_through(job, heard))
    raise_error(job)
    return job


def paused(job: "Job", as_json: bool) -> bool:
    """Whether somebody has paused it meanwhile; then that is shown."""
    if job.state == "paused":
        show(job, as_json, result_lines(job))
    return job.state == "paused"


@contextmanager
def shown(
    waiting: str,
    as_json: bool,
    columns: "Callable[[], Sequence[ProgressColumn]]",
    tell: "Callable[[dict[str, Any]], dict[str, Any]]",
) -> "Iterator[Heard]":
    """Progress on stderr: a bar on a terminal, JSON lines with --json, nothing with --quiet.

    `waiting` is the first line. `columns` makes the bar's columns, and `tell(data)` returns what an
    event changes in the bar.
    """
    import msgspec

    if is_quiet():
        yield lambda _: None
        return
    if as_json:

        def told(event: "StoredEvent") -> None:
            if event.type == "metrics":
                click.echo(msgspec.json.encode(event.data).decode(), err=True)

        yield told
        return
    progress(printable(waiting))
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waits", total=None)

        def heard(event: "StoredEvent") -> None:
            if event.type == "metrics":
                bar.update(task, **tell(event.data))

        yield heard
