"""`lmaas train`."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas import tasks
from lmaas.cli.job_progress import result_lines, watched
from lmaas.cli.output import (
    home_options,
    json_option,
    progress,
    server_options,
    service_of,
    show,
)
from lmaas.cli.queued import detach_option, interruptible, show_queued
from lmaas.cli.references import MODEL

if TYPE_CHECKING:
    from lmaas.recipe import Recipe

FLAGS = {
    "name": "name",
    "task": "task",
    "data": "data.train",
    "validation": "data.validation",
    "framework": "framework",
    "base": "model.base",
    "architecture": "model.architecture",
    "epochs": "epochs",
    "steps": "steps",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
    "precision": "precision",
    "seed": "seed",
}
"""What each flag says in a recipe."""


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--name", help="Name of the trained model. Default: the name of the data file.")
@click.option("--task", help=f"Task to train: {', '.join(tasks.trained())}.")
@click.option("--data", help="Training data: a file or folder.")
@click.option(
    "--validation", help="Validation data: a file or folder, or the fraction of --data to hold out."
)
@click.option("--framework", help="pytorch, keras or tensorflow, or lightgbm for boosted trees.")
@click.option(
    "--base",
    type=MODEL,
    help="Model to fine-tune: a registered model or the folder of a checkpoint.",
)
@click.option("--architecture", help="Architecture of a new model.")
@click.option("--epochs", type=click.IntRange(1), help="Number of passes over the training data.")
@click.option(
    "--steps", type=click.IntRange(1), help="Number of optimizer steps, instead of --epochs."
)
@click.option("--batch-size", type=click.IntRange(1))
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True))
@click.option("--precision", type=click.Choice(["f32", "bf16"]))
@click.option("--seed", type=click.IntRange(0))
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any recipe key, such as early_stopping.patience=2. The value is YAML.",
)
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    help="Jobs with a higher priority run first.",
)
@detach_option
@click.option("--schema", is_flag=True, help="Print the JSON schema of a recipe.")
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    /,
    recipe: Path | None,
    assignments: tuple[str, ...],
    priority: int,
    detach: bool,
    schema: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model from RECIPE (a YAML file) and options, and register it.

    The live server of this home runs it, or one that is started for it, or with --url another,
    which is sent the data files. With --detach and no server it waits in the queue for the next
    `lmaas serve`. With --json each event is a line, and the job the last one. Ctrl-C leaves the job
    to the server, or to the next one.
    """
    from lmaas.config import load_settings
    from lmaas.errors import InvalidInput
    from lmaas.recipes import push_base, send_data, server_for
    from lmaas.registry.lock import HomeLock
    from lmaas.training.schema import recipe_schema
    from lmaas.types import TENANT

    if schema:
        show(recipe_schema(), True, ())
        return
    if recipe is None and (given["task"] is None or given["data"] is None):
        raise click.UsageError("Give a recipe file, or --task and --data.")
    settings = load_settings(flags)
    chosen = _recipe(recipe, given, assignments, here=settings.url is None)
    lives = settings.url is not None or "url" in (HomeLock.read(settings.home_path) or {})
    if detach and not lives:
        if chosen.model.base is not None and Path(chosen.model.base).is_dir():
            raise InvalidInput(
                f"The base {chosen.model.base} is not registered, and no server is here to do it.",
                hint="`lmaas push` it first, or leave --detach out.",
                param="model.base",
            )
        with service_of(flags) as service:
            job = service.jobs.add(TENANT, chosen, priority=priority)
        show_queued(job, as_json, lives=False)
        return
    with _terminated_like_interrupted(), server_for(settings) as client:
        if settings.url is not None:
            chosen = send_data(client, chosen)
        chosen = push_base(client, chosen)
        job = client.train(chosen, priority=priority)
        if detach:
            show_queued(job, as_json, lives=True)
            return
        progress(f"Job {job.id}")
        with interruptible(job, lives=lives), watched(as_json) as heard:
            job = client.wait_for_job(job.id, heard)
    show(job, as_json, result_lines(job))


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C, so that no server that it has started stays behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _recipe(
    path: Path | None, given: dict[str, Any], assignments: tuple[str, ...], *, here: bool
) -> "Recipe":
    import yaml

    from lmaas.errors import InvalidInput
    from lmaas.recipes import make_recipe, read_recipe

    plain: dict[str, Any] = {} if path is None else read_recipe(path)
    for flag, key in FLAGS.items():
        if given[flag] is not None:
            value = given[flag]
            if flag == "validation" and re.fullmatch(r"0?\.\d+|0", value):
                value = float(value)
            _put(plain, key, value)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--set takes KEY=VALUE; received {text!r}.", param="set")
        try:
            _put(plain, key, yaml.safe_load(value))
        except yaml.YAMLError:
            raise InvalidInput(f"--set {key}: {value!r} is not valid YAML.", param=key) from None
    if "name" not in plain and given["data"] is not None:
        stem = Path(given["data"]).name.partition(".")[0].lower()
        plain["name"] = re.sub(r"[^a-z0-9-]+", "-", stem).strip("-") or "model"
    return make_recipe(plain, {}, here=here)


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings."""
    *path, last = key.split(".")
    for name in path:
        inner = plain.get(name)
        plain[name] = dict(inner) if isinstance(inner, dict) else {}
        plain = plain[name]
    plain[last] = value
