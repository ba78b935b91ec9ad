"""`lmaas predict NAME FILE`: one call, or one for each batch of rows of a file.

Through a server or, where none lives, in this process.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import (
    home_options,
    is_quiet,
    json_option,
    printable,
    progress,
    server_options,
    service_of,
    show,
    show_table,
)
from lmaas.cli.references import MODEL
from lmaas.cli.sounds import Wanted, in_process, over_http, write_down
from lmaas.cli.target import server_or_none
from lmaas.errors import InvalidInput

if TYPE_CHECKING:
    from lmaas.cli.sounds import Hear
    from lmaas.types import Answer, Payload

    Ask = Callable[[Payload], Answer]


@click.command()
@click.argument("name", type=MODEL)
@click.argument(
    "files",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    nargs=-1,
    required=True,
)
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the call, such as top_k=3. Repeat the option for more.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output file for rows and their predictions: .csv, .tsv or .jsonl, optionally .gz; for "
    "sounds a file, or a folder for several.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Column that holds an input field, such as text=review. Repeat the option for more.",
)
@click.option(
    "--encoding", help="Character encoding of the rows if it is not UTF-8, such as latin-1."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "srt", "vtt", "json", "verbose_json"]),
    help="Format of a transcript. Default: text.",
)
@click.option("--language", help="Language that is spoken, such as en. Default: the model tells.")
@click.option("--prompt", help="Names and words that may be spoken.")
@click.option(
    "--temperature", type=click.FloatRange(0, 1), help="Randomness of a transcript, from 0 to 1."
)
@click.option("--words", is_flag=True, help="Tell when each word is spoken, in verbose_json.")
@click.option(
    "--draw",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Output image with what was found drawn on FILE: .png, .jpg or .webp.",
)
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    name: str,
    files: tuple[Path, ...],
    parameters: tuple[str, ...],
    out: Path | None,
    columns: tuple[str, ...],
    encoding: str | None,
    format_: str | None,
    language: str | None,
    prompt: str | None,
    temperature: float | None,
    words: bool,
    draw: Path | None,
    as_json: bool,
) -> None:
    """Send FILE to the model NAME and print the prediction.

    FILE is an image, a .json file (the call's inputs, or the whole call with "inputs" and
    "parameters"), one array (.npy), arrays by input name (.safetensors), or - for any of these
    on standard input. Or it has rows (.csv, .tsv, .jsonl, each also as .gz): they go to the model
    batch by batch, and come out with the answer beside them, to --out or standard output. With
    --draw, what was found in an image is drawn on it.

    To a model that hears, FILE is a sound, or several in a row: what is said comes out as text, as
    subtitles (--format srt, vtt) or with its times.
    """
    from lmaas import tasks
    from lmaas.predictions import fields_of, kind_of

    given = parse_parameters(parameters)
    file = files[0]
    kind = kind_of(file)
    wanted = Wanted(format_, language, prompt, temperature, words)
    if words and format_ not in (None, "verbose_json"):
        raise click.UsageError("--words goes with --format verbose_json.")
    if words:
        wanted = wanted._replace(format="verbose_json")
    if kind is None:
        for option, value in (("--column", columns), ("--encoding", encoding)):
            if value:
                raise click.UsageError(
                    f"{option} works with files of rows only: .csv, .tsv, .jsonl."
                )
        if draw is not None:
            _check_drawing(file, draw)
        with _asked(flags, name) as (task, ask, hear):
            if tasks.spec(task).transcribes and file.suffix.lower() != ".json":
                if given or draw is not None:
                    option = "--parameter" if given else "--draw"
                    raise click.UsageError(f"{option} does not work with models that hear.")
                write_down(files, hear, wanted, out, as_json)
                return
            _check_alone(files, wanted, out)
            payload = read_file(file, given)
            answer = ask(payload)
        _print(task, answer, as_json)
        if draw is not None:
            _draw(task, answer, payload.body, draw)
        return
    _check_alone(files, wanted, None)
    if draw is not None:
        raise click.UsageError("--draw works with one image, not with files of rows.")
    if not file.is_file():
        raise InvalidInput(f"There is no file {file}.", param="FILE")
    if out is not None and as_json:
        raise click.UsageError("--json prints the rows; --out FILE.jsonl writes them as JSON.")
    fields = fields_of(columns)
    with _asked(flags, name) as (task, ask, _):
        _rows(file, tasks.get(task), ask, out, "lines" if as_json else kind,
              encoding=encoding, columns=fields, parameters=given)  # fmt: skip


def _check_alone(files: tuple[Path, ...], wanted: Wanted, out: Path | None) -> None:
    """Raise UsageError for what only models that hear take."""
    if len(files) > 1:
        raise click.UsageError("Only models that hear take several files.")
    if out is not None:
        raise click.UsageError(
            "--out works with files of rows only: .csv, .tsv, .jsonl, and with sounds."
        )
    wanted.check_unused()


def _rows(file: Path, task: Any, ask: "Ask", out: Path | None, kind: str, **more: Any) -> None:
    from lmaas.predictions import predict_rows, written

    with _counted() as told, written(out, kind, sys.stdout, file) as writer:
        count = predict_rows(file, task, ask, writer, told=told, **more)
    if out is not None:
        progress(f"Wrote {count:,} rows to {out}.")


def _print(task: str, answer: "Answer", as_json: bool) -> None:
    """The answer as the client gives it, or as its task shows it."""
    import msgspec

    from lmaas import tasks
    from lmaas.client import read_answer

    told = read_answer(answer)
    if answer.json_bytes is None:
        result = msgspec.json.decode(answer.body)
    else:
        # Tensors are answered by tensors, whatever the task is.
        task = "tensor"
        told = {name: array.tolist() for name, array in told.items()}
        result = {"outputs": told}
    if as_json:
        arrays = isinstance(result, dict) and "outputs" in result
        show({"outputs": told} if arrays else told, True, ())
        return
    columns, rows = tasks.get(task).shown(result)
    if columns:
        show_table(result, False, columns, rows)
    else:
        show(result, False, [printable(": ".join(row)) for row in rows])


def _check_drawing(file: Path, draw: Path) -> None:
    from lmaas.codecs.drawing import FORMATS

    if draw.suffix.lower() not in FORMATS:
        raise click.UsageError(f"--draw writes {', '.join(FORMATS)}; received {draw.name!r}.")
    if file.suffix.lower() in (".json", ".npy", ".safetensors"):
        raise click.UsageError("--draw works with an image file.")
    if draw.exists() and file.exists() and draw.samefile(file):
        raise click.UsageError("--draw would overwrite the image that is read.")


def _draw(task: str, answer: "Answer", data: bytes, draw: Path) -> None:
    import msgspec

    from lmaas import tasks
    from lmaas.codecs import drawing
    from lmaas.tasks.base import Drawable

    served = tasks.get(task)
    if not isinstance(served, Drawable):
        raise InvalidInput(
            f"What a model for {task} answers is not drawn on images.",
            hint="Leave --draw out.",
            param="draw",
        )
    marks = served.marks(msgspec.json.decode(answer.body))
    draw.write_bytes(drawing.draw(data, marks, draw.suffix))
    progress(f"Drew {len(marks)} on {draw}.")


@contextmanager
def _asked(flags: dict[str, Any], name: str) -> "Iterator[tuple[str, Ask, Hear]]":
    """The model's task, and how it is called and hears for the time of the block."""
    from lmaas.types import TENANT

    with server_or_none(flags) as client:
        if client:
            yield client.task(name), partial(client.answer, name), over_http(client, name)
            return
        with service_of(flags) as service, asyncio.Runner() as runner:
            task = service.catalog.get(TENANT, name).manifest.task
            progress("This home has no running server: loading the model in this process.")
            running = service.running()
            runner.run(running.__aenter__())
            try:
                yield (
                    task,
                    lambda payload: runner.run(service.calls.predict_here(TENANT, name, payload)),
                    in_process(service, runner, TENANT, name),
                )
            finally:
                runner.run(running.__aexit__(None, None, None))


@contextmanager
def _counted() -> Iterator[Callable[[int], None]]:
    """Tells on a terminal's stderr how many rows are done."""
    if is_quiet() or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield lambda done: bar.update(shown, completed=done)


def read_file(file: Path, parameters: dict[str, Any]) -> "Payload":
    """The call that a file's content is. Raises InvalidInput."""
    import msgspec
    import numpy as np

    from lmaas.client import to_payload
    from lmaas.types import JSON, Payload

    data = _content(file)
    match _kind(file, data):
        case "json":
            try:
                value = msgspec.json.decode(data)
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidInput(f"{file} is not valid JSON: {error}.", param="FILE") from None
            if not (isinstance(value, dict) and "inputs" in value):
                value = {"inputs": value}
            if parameters:
                given = value.get("parameters", {})
                value["parameters"] = {**given, **parameters}
            return Payload(media_type=JSON, body=msgspec.json.encode(value))
        case "npy":
            return to_payload(_read_npy(file, data), parameters)
        case "safetensors":
            from safetensors import SafetensorError
            from safetensors.numpy import load

            try:
                arrays: dict[str, np.ndarray] = load(data)
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                raise InvalidInput(
                    f"{file} is not a readable .safetensors file: {error}.", param="FILE"
                ) from None
            return to_payload(arrays, parameters)
        case _:
            return to_payload(data, parameters)


def _read_npy(file: Path, data: bytes) -> Any:
    import io

    import numpy as np

    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(
            f"{file} is not a readable .npy file: {error}",
            hint="Save one array of numbers with numpy.save.",
            param="FILE",
        ) from None
    # uint8 arrays would be taken for pixels; a file of numbers is the model's own input.
    return array.tolist()


def _content(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {file}.", param="FILE") from None


def _kind(file: Path, data: bytes) -> str:
    """By the name's ending; standard input, which has none, by the first bytes."""
    if str(file) != "-":
        return file.suffix.lower().removeprefix(".")
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        return "safetensors"
    return "json" if data.lstrip()[:1] in (b"{", b"[") else "image"


def parse_parameters(parameters: tuple[str, ...]) -> dict[str, Any]:
    """`top_k=3` as {"top_k": 3}: values are JSON, or text where they are not."""
    parsed = {}
    for text in parameters:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"expected NAME=VALUE; received {text!r}.")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed
