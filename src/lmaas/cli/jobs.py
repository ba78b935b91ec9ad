"""`lmaas jobs`: the queue of jobs, on this home or at a server."""

import time
from collections.abc import Callable
from typing import Any

import click

from lmaas.cli.job_progress import line, result_lines, watched
from lmaas.cli.output import home_options, json_option, printable, server_options, show, show_table
from lmaas.cli.target import operator_of

KINDS = ["train", "pull", "import", "compress"]
STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled"]


@click.group()
@home_options
@server_options
def command() -> None:
    """The queue of jobs: list, show, logs, cancel, pause, resume, watch."""


@command.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--kind", type=click.Choice(KINDS), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--after", help="Go on after this job's id.")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(
    flags: dict[str, Any], state: Any, kind: Any, limit: int, after: str | None, as_json: bool
) -> None:
    """List jobs, newest first."""
    with operator_of(flags) as operator:
        jobs = operator.jobs(state=state, kind=kind, limit=limit, after=after)
    rows = [
        (
            job.id,
            job.kind,
            job.name,
            job.state,
            job.model or "",
            _age(job.created_at),
            line(job.progress),
        )
        for job in jobs
    ]
    show_table(jobs, as_json, ("ID", "KIND", "NAME", "STATE", "MODEL", "CREATED", "PROGRESS"), rows)


@command.command("show")
@click.argument("job_id", metavar="ID")
@json_option
@home_options
@server_options
@click.pass_obj
def show_(flags: dict[str, Any], job_id: str, as_json: bool) -> None:
    """Show one job: its state, numbers, checkpoints and error."""
    with operator_of(flags) as operator:
        job = operator.job(job_id)
    lines = result_lines(job)
    lines += [
        f"Checkpoint of step {point.step}, callable as {point.model}" for point in job.checkpoints
    ]
    show(job, as_json, lines)


@command.command("logs")
@click.argument("job_id", metavar="ID")
@click.option("--events", is_flag=True, help="What the job told, instead of what it printed.")
@json_option
@home_options
@server_options
@click.pass_obj
def logs(flags: dict[str, Any], job_id: str, events: bool, as_json: bool) -> None:
    """Show what a job's process has printed."""
    with operator_of(flags) as operator:
        if not events:
            text = operator.job_log(job_id)
            show({"log": text}, as_json, [printable(part) for part in text.splitlines()])
            return
        told, after = [], 0
        while page := operator.job_events(job_id, after=after, limit=1000):
            told += page
            after = page[-1].seq
    when = [time.strftime("%H:%M:%S", time.localtime(event.created_at)) for event in told]
    lines = [f"{at} {e.level:5} {printable(e.message)}" for at, e in zip(when, told, strict=True)]
    show(told, as_json, lines)


def _verb(name: str, text: str) -> Callable[..., None]:
    @command.command(name, help=text)
    @click.argument("job_id", metavar="ID")
    @json_option
    @home_options
    @server_options
    @click.pass_obj
    def run(flags: dict[str, Any], job_id: str, as_json: bool) -> None:
        with operator_of(flags) as operator:
            job = getattr(operator, f"{name}_job")(job_id)
        asked = f" ({job.wanted} asked for)" if job.wanted else ""
        show(job, as_json, [f"{job.id}  {job.state}{asked}"])

    made: Callable[..., None] = run
    return made


cancel = _verb("cancel", "End a job within seconds.")
pause = _verb("pause", "Hold a training run, with a checkpoint of where it is, or a pull.")
resume = _verb("resume", "Put a paused job back into the queue.")


@command.command("watch")
@click.argument("job_id", metavar="ID")
@json_option
@home_options
@server_options
@click.pass_obj
def watch(flags: dict[str, Any], job_id: str, as_json: bool) -> None:
    """Follow a job until it ends or is paused; Ctrl-C leaves it alone."""
    from lmaas.job import raise_error

    with operator_of(flags) as operator:
        with watched(as_json) as heard:
            for event in operator.follow_job(job_id):
                heard(event)
        job = operator.job(job_id)
    raise_error(job)
    show(job, as_json, result_lines(job))


def _age(moment: float) -> str:
    seconds = max(0, int(time.time() - moment))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
