"""`lmaas compress`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import (
    home_options,
    json_option,
    server_options,
    show,
    size,
)
from lmaas.cli.queued import detach_option, followed, shown
from lmaas.cli.references import MODEL

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from lmaas.types import CompressSample, VariantReport


@click.command()
@click.argument("name", type=MODEL)
@click.option("--to", required=True, type=click.Choice(["bf16", "int8", "int4"]))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Text (UTF-8) to measure perplexity on, like what the model will see. Default: a short "
    "one in several languages.",
)
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rows (.jsonl, .csv, .tsv, also as .gz) to measure other models on, each with the right "
    "answer.",
)
@click.option("--expected", metavar="COLUMN", help="Column of --data that holds the right answer.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Column of --data that holds an input field, such as text=review. Repeat for more.",
)
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the calls on --data, such as src_lang=en. Repeat the option for more.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="How much worse it may get: perplexity relative to the source's, the metric of another "
    "task as a share of the most that it can be.",
)
@click.option(
    "--group-size", type=click.IntRange(8, 65_536), help="Weights that share a scale; int4."
)
@click.option(
    "--ratio", type=click.FloatRange(0, 1), help="Share of the layers that become int4, not int8."
)
@detach_option
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    name: str,
    to: Any,
    text: Path | None,
    data: Path | None,
    expected: str | None,
    columns: tuple[str, ...],
    parameters: tuple[str, ...],
    max_drop: float,
    group_size: int | None,
    ratio: float | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Make a smaller variant of a model, measured against its source.

    A language model is measured by its perplexity, others by the metric of their task on --data;
    one that writes (translation, Whisper) without --data by the tokens that it wrote at its import.
    When it is the smallest that was made, it takes over within seconds, also from a loaded one.
    Refused when it loses more than --max-drop. In this home, or with --url on a server. It is a
    job, which goes on after Ctrl-C at this home's server, or at the next one.
    """
    import msgspec

    from lmaas.types import TENANT, CompressOptions

    options = msgspec.convert(
        {
            "to": to,
            "text": None if text is None else _read(text),
            "samples": _samples(flags, name, data, expected, columns, parameters),
            "max_drop": max_drop,
            "group_size": group_size,
            "ratio": ratio,
        },
        CompressOptions,
    )
    version = followed(
        flags,
        lambda client: client.start_compress(name, options),
        lambda service: service.model_jobs.compress(TENANT, name, options),
        lambda: shown(f"Compressing {name} to {to} …", as_json, _columns, _told),
        detach=detach,
        as_json=as_json,
    )
    if version is None:
        return
    variant = next(variant for variant in version.variants if variant.name == to)
    show(variant, as_json, _lines(name, variant.name, variant.report))


def _samples(
    flags: dict[str, Any],
    name: str,
    data: Path | None,
    expected: str | None,
    columns: tuple[str, ...],
    parameters: tuple[str, ...],
) -> "tuple[CompressSample, ...]":
    """The rows of a file, as the model's task reads them. Raises InvalidInput."""
    from lmaas import tasks
    from lmaas.cli.predict import parse_parameters
    from lmaas.cli.target import operator_of
    from lmaas.errors import InvalidInput
    from lmaas.predictions import fields_of, samples_of

    if data is None:
        for option, given in (
            ("expected", expected), ("column", columns), ("parameter", parameters)
        ):  # fmt: skip
            if given:
                raise InvalidInput(f"--{option} goes with --data.", param=option)
        return ()
    if expected is None:
        raise InvalidInput(
            f"Say which column of {data.name} holds the right answer: --expected COLUMN.",
            param="expected",
        )
    with operator_of(flags) as target:
        task = tasks.get(target.model(name).manifest.task)
    return samples_of(
        data, task, expected, columns=fields_of(columns), parameters=parse_parameters(parameters)
    )


def _read(path: Path) -> str:
    from lmaas.errors import InvalidInput
    from lmaas.types import MAX_TEXT_CHARS

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The text {path} cannot be read: {error}.", param="text") from None
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidInput(
            f"The text has {len(text)} characters; at most {MAX_TEXT_CHARS} are taken.",
            param="text",
        )
    return text


def _columns() -> "Sequence[ProgressColumn]":
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    return TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()


def _told(data: dict[str, Any]) -> dict[str, Any]:
    return {"description": data["stage"], "completed": data["done"], "total": 1.0}


def _lines(model: str, variant: str, report: "VariantReport") -> list[str]:
    source, made = report.source, report.compressed
    lines = [
        f"Registered {variant} of {model}: {size(made.size_bytes)}, the source has "
        f"{size(source.size_bytes)}."
    ]
    if report.metric != "perplexity":
        return [*lines, *_judged(report)]
    differing = [at for at in report.first_differences if at is not None]
    where = f", the first difference at token {min(differing) + 1}" if differing else ""
    return [
        *lines,
        f"Perplexity {made.perplexity:.4g}, the source {source.perplexity:.4g} "
        f"({report.drop:+.1%}) on {report.text_tokens} tokens.",
        f"{report.token_agreement:.0%} of greedy tokens agree over "
        f"{len(report.first_differences)} x {report.new_tokens}{where}.",
        f"{made.tokens_per_s:.3g} tokens/s, the source {source.tokens_per_s:.3g}; loaded in "
        f"{made.load_s:.2g} s.",
    ]


def _judged(report: "VariantReport") -> list[str]:
    source, made = report.source, report.compressed
    if not report.samples:
        return [f"{report.token_agreement:.0%} of the tokens agree with those at its import."]
    return [
        f"{report.metric} {made.metrics[report.metric]:.4g}, the source "
        f"{source.metrics[report.metric]:.4g}, on {report.samples} samples; "
        f"{report.token_agreement:.0%} of the answers agree.",
        f"{made.calls_per_s:.3g} calls/s, the source {source.calls_per_s:.3g}; loaded in "
        f"{made.load_s:.2g} s.",
    ]
