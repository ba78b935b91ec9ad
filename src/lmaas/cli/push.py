"""`lmaas push`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas import tasks
from lmaas.cli.output import (
    home_options,
    json_option,
    server_options,
    show,
)
from lmaas.cli.queued import detach_option, followed, shown
from lmaas.cli.references import MODEL

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from lmaas.types import Anchor, ReadingSpec

MOST_CHARACTERS_BYTES = 4 << 20


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name.")
@click.option("--task", help=f"{', '.join(tasks.TASKS)}; a checkpoint's architecture tells it.")
@click.option("--labels", help="Class names, separated by commas.")
@click.option("--image", help="How an image becomes the input (JSON, see lmaas.ImageSpec).")
@click.option(
    "--detection", help="How a detector's outputs become boxes (JSON, see lmaas.DetectionSpec)."
)
@click.option("--face", help="How faces are laid, and thresholds (JSON, see lmaas.FaceSpec).")
@click.option(
    "--anchors",
    type=click.Path(path_type=Path),
    help="A detector's anchors: cx, cy, width, height in shares of the image "
    "(.npy, .safetensors, .json).",
)
@click.option(
    "--characters",
    type=click.Path(path_type=Path),
    help="A reader's characters, one a line, without the blank (a file of PaddleOCR's kind says "
    "them itself).",
)
@click.option("--reading", help="A reader's blank and pattern (JSON, see lmaas.ReadingSpec).")
@click.option("--outputs-are", type=click.Choice(["logits", "probabilities"]))
@click.option(
    "--sample", type=click.Path(path_type=Path), help="Sample inputs (.npy, .safetensors, .json)."
)
@click.option(
    "--dynamic",
    help="Axes that are free beside the batch: INPUT:AXIS=NAME, separated by commas.",
)
@click.option("--signature", help="Which signature of a SavedModel is served.")
@click.option("--base", type=MODEL, help="The model that a LoRA adapter was made for.")
@click.option("--card", type=click.Path(path_type=Path), help="A description (Markdown file).")
@detach_option
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    path: Path,
    name: str,
    task: str | None,
    labels: str | None,
    image: str | None,
    detection: str | None,
    face: str | None,
    anchors: Path | None,
    characters: Path | None,
    reading: str | None,
    outputs_are: Any,
    sample: Path | None,
    dynamic: str | None,
    signature: str | None,
    base: str | None,
    card: Path | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Publish a model file or folder: into this home, or with --url onto a server.

    PATH is a .keras, .onnx or .gguf file, a SavedModel folder, the folder of a Hugging Face
    checkpoint (safetensors, quantised ones too), that of a LoRA adapter (with --base), or a
    package folder. It is a job, which goes on after Ctrl-C at this home's server, or at the next
    one; the files must stay where they are until it has ended, unless they went to a server.
    """
    from lmaas.codecs.json import read
    from lmaas.telling import lines_of
    from lmaas.types import TENANT, DetectionSpec, FaceSpec, ImageSpec, PushOptions

    options = PushOptions(
        name=name,
        task=task,
        labels=tuple(labels.split(",")) if labels else None,
        image=read(image.encode(), ImageSpec) if image else None,
        detection=read(detection.encode(), DetectionSpec) if detection else None,
        face=read(face.encode(), FaceSpec) if face else None,
        anchors=_anchors(anchors) if anchors else None,
        reading=_reading(reading, characters),
        outputs_are=outputs_are,
        sample=str(sample.absolute()) if sample else None,
        dynamic=_axes(dynamic) if dynamic else None,
        signature=signature,
        base=base,
        card=card.read_text("utf-8") if card else "",
    )
    version = followed(
        flags,
        lambda client: client.start_push(path, options),
        lambda service: service.model_jobs.push(TENANT, path, options),
        lambda: shown(f"Compiling and checking {path} …", as_json, _columns, _told),
        detach=detach,
        as_json=as_json,
    )
    if version is None:
        return
    first, *more = lines_of(version)
    show(version, as_json, [f"Published {first}", *more])


def _reading(told: str | None, characters: Path | None) -> "ReadingSpec | None":
    import msgspec

    from lmaas.codecs.json import read
    from lmaas.errors import InvalidInput
    from lmaas.types import ReadingSpec

    if told is None and characters is None:
        return None
    spec = read(told.encode(), ReadingSpec) if told else ReadingSpec()
    if characters is None:
        return spec
    if spec.characters:
        raise InvalidInput("Give --characters, or characters in --reading.", param="characters")
    try:
        if characters.stat().st_size > MOST_CHARACTERS_BYTES:
            raise InvalidInput(
                f"{characters.name} has more than {MOST_CHARACTERS_BYTES} bytes.",
                param="characters",
            )
        text = characters.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{characters.name} cannot be read as UTF-8 text: {error}.", param="characters"
        ) from None
    # A character may be one at which Python ends lines.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return msgspec.structs.replace(spec, characters=tuple(lines))


def _anchors(path: Path) -> "tuple[Anchor, ...]":
    import msgspec

    from lmaas.errors import InvalidInput
    from lmaas.frameworks.importer import read_sample
    from lmaas.types import Anchor

    given = read_sample(path)
    if isinstance(given, dict) and len(given) == 1:
        given = next(iter(given.values()))
    try:
        return msgspec.convert(getattr(given, "tolist", lambda: given)(), tuple[Anchor, ...])
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{path.name} holds no anchors, (A, 4) numbers: {error}.", param="anchors"
        ) from None


def _columns() -> "Sequence[ProgressColumn]":
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    return SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()


def _told(data: dict[str, Any]) -> dict[str, Any]:
    return {"description": data["stage"]}


def _axes(told: str) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for entry in told.split(","):
        place, _, name = entry.partition("=")
        tensor, _, axis = place.rpartition(":")
        if not (tensor and name and axis.lstrip("-").isdecimal()):
            raise click.BadParameter(f"{entry!r} is not INPUT:AXIS=NAME.", param_hint="--dynamic")
        found.setdefault(tensor, {})[int(axis)] = name
    return found
