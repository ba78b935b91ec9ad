"""`lmaas demo`: the main job."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lmaas.cli.job_progress import watched
from lmaas.cli.output import home_options, json_option, progress, service_of, show_table, size

if TYPE_CHECKING:
    from lmaas.demo import Result
    from lmaas.recipe import Recipe
    from lmaas.types import ModelVersion

KEY_NAME = "demo"
"""The key in the snippets; it lives until the next demo."""

COLUMNS = (
    "\nframework", "\nparameters", "test\naccuracy", "served\naccuracy", "\nsame",
    "parity\nerror", "runs\nin", "\nsize", "p50\nms",
)  # fmt: skip


@click.command()
@click.option("--serve", is_flag=True, help="Leave the server running in the foreground.")
@click.option("--port", type=int, help="Port of the server; 0 takes a free one.")
@json_option
@home_options
@click.pass_obj
def command(flags: dict[str, Any], serve: bool, port: int | None, as_json: bool) -> int:
    """Train, serve and call three models.

    A PyTorch, a Keras and a TensorFlow digit classifier go the whole way, each trained by a job of
    the server. The exit code is 0 only if every served model gives the trained network's answers.
    """
    # TensorFlow reads these when it is imported: quiet, and on the CPU as everything here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from lmaas import demo
    from lmaas.config import load_settings

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    settings = load_settings({**flags, "port": port})
    demo.check_port(settings)
    data, folder = demo.load_digits(), settings.home_path / "demo"
    recipes = [demo.recipe_for(framework, folder) for framework in demo.MODULES]
    demo.write_data(folder, data)
    progress("Starting the server …")
    url, process = demo.ensure_server(settings)
    try:
        key = _new_key(flags, KEY_NAME, ("call",))
        working = _new_key(flags, f"{KEY_NAME} work", ("admin", "call"))
        trained = [_trained(url, working, recipe) for recipe in recipes]
        progress(f"Classifying {len(data.test_y)} held-out digits with each model …")
        results = []
        for recipe, version in zip(recipes, trained, strict=True):
            with _noise_to(settings.home_path / "demo.log"), service_of(flags) as service:
                own = demo.own_labels(service, recipe, version)
            results.append(demo.measure(url, working, data, version, own))
        _revoke(flags, f"{KEY_NAME} work")
        told = {"models": results, "url": url, "key": key}
        show_table(told, as_json, COLUMNS, [_row(result) for result in results])
        if not as_json:
            click.echo(demo.snippets(settings, url, key, demo.write_digit(settings, data)))
        if process is None:
            progress(f"The server at {url} ran already and goes on.")
        elif serve:
            progress(f"Serving on {url}; Ctrl-C drains and stops.")
            demo.wait(process, settings)
        else:
            progress("The server has stopped; `lmaas serve` or `lmaas demo --serve` runs it.")
    finally:
        if process:
            demo.stop(process)
    return 0 if all(result.answers_equal for result in results) else 1


def _trained(url: str, key: str, recipe: "Recipe") -> "ModelVersion":
    """The version that a job of the server registers, its events shown as `lmaas train` does."""
    from lmaas.client import Client

    progress(f"Training {recipe.name} …")
    with Client(url, key) as client, watched(False) as heard:
        job = client.wait_for_job(client.train(recipe).id, heard)
        return client.model(str(job.model))


@contextmanager
def _noise_to(log: Path) -> Iterator[None]:
    """What the frameworks' C++ writes on stderr goes to a file; failures are exceptions."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


def _new_key(flags: dict[str, Any], name: str, scopes: Sequence[Any]) -> str:
    """A key in place of every earlier one of this name."""
    from lmaas.types import TENANT

    _revoke(flags, name)
    with service_of(flags) as service:
        return service.create_key(TENANT, name, scopes)[1]


def _revoke(flags: dict[str, Any], name: str) -> None:
    from lmaas.types import TENANT

    with service_of(flags) as service:
        for record in service.list_keys(TENANT):
            if record.name == name and record.revoked_at is None:
                service.revoke_key(TENANT, record.id)


def _row(result: "Result") -> Sequence[str]:
    return (
        result.framework,
        f"{result.parameters:,}",
        f"{result.accuracy:.4f}",
        f"{result.served_accuracy:.4f}",
        "yes" if result.answers_equal else "NO",
        f"{result.parity_max_abs_error:.1e}",
        result.precision,
        size(result.size_bytes),
        f"{result.p50_ms:.1f}",
    )


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """As Ctrl-C, so that the server is not left behind."""
    raise SystemExit(128 + number)
