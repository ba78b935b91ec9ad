"""`lmaas push`."""

import asyncio
from pathlib import Path
from typing import Any

import click

from lmaas.cli.output import (
    home_options,
    json_option,
    progress,
    server_options,
    service_of,
    show,
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name.")
@click.option("--task", help="The model's task; a checkpoint's architecture tells it.")
@click.option("--labels", help="Class names, separated by commas.")
@click.option("--image", help="How an image becomes the input (JSON, see lmaas.ImageSpec).")
@click.option("--outputs-are", type=click.Choice(["logits", "probabilities"]))
@click.option(
    "--sample", type=click.Path(path_type=Path), help="Sample inputs (.npy, .safetensors)."
)
@click.option("--base", help="The model that a LoRA adapter was made for.")
@click.option("--card", type=click.Path(path_type=Path), help="A description (Markdown file).")
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
    outputs_are: Any,
    sample: Path | None,
    base: str | None,
    card: Path | None,
    as_json: bool,
) -> None:
    """Publish a model file or folder: into this home, or with --url onto a server.

    PATH is a .keras, .onnx or .gguf file, a SavedModel folder, the folder of a Hugging Face
    checkpoint (safetensors, quantised ones too), that of a LoRA adapter (with --base), or a
    package folder.
    """
    from lmaas.client import Client
    from lmaas.codecs.json import read
    from lmaas.config import load_settings
    from lmaas.types import TENANT, ImageSpec, PushOptions

    options = PushOptions(
        name=name,
        task=task,
        labels=tuple(labels.split(",")) if labels else None,
        image=read(image.encode(), ImageSpec) if image else None,
        outputs_are=outputs_are,
        sample=str(sample.absolute()) if sample else None,
        base=base,
        card=card.read_text("utf-8") if card else "",
    )
    settings = load_settings(flags)
    progress(f"Compiling and checking {path} …")
    if settings.url is not None:
        with Client(settings.url, settings.key) as client:
            version = client.push(path, options)
    else:
        with service_of(flags) as service:
            version = asyncio.run(service.catalog.push(TENANT, path, options))
    error = version.parity.max_abs_error("f32")
    lines = [f"Published {version.ref} (f32 error {error:.2g})."]
    if why := version.manifest.lineage.recipe.get("not_compiled"):
        lines = [f"Published {version.ref}; served from its source by the engine torch: {why}"]
    told = (version.manifest.lineage.recipe.get(name) for name in ("weights", "context"))
    lines += [line for line in (*told, *version.parity.notes) if line]
    show(version, as_json, lines)
