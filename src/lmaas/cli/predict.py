"""`lmaas predict NAME FILE`: one call, through a server or, where none lives, in this process."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import (
    home_options,
    json_option,
    printable,
    progress,
    server_options,
    service_of,
    show,
    show_table,
)
from lmaas.cli.target import server_or_none
from lmaas.errors import InvalidInput

if TYPE_CHECKING:
    from lmaas.types import Answer, Payload


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE",
    help="A parameter of the call, such as top_k=3; may be given again.",
)  # fmt: skip
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any], name: str, file: Path, parameters: tuple[str, ...], as_json: bool
) -> None:
    """Send FILE to the model NAME and print its answer.

    FILE is an image, a .json file (the call's inputs, or the whole call with "inputs" and
    "parameters"), one array (.npy), arrays by input name (.safetensors), or - for any of these
    on standard input.
    """
    from lmaas.client import read_answer
    from lmaas.types import TENANT

    payload = read_file(file, _parse(parameters))
    with server_or_none(flags) as client:
        if client:
            answer = client.answer(name, payload)
        else:
            progress("No server of this home runs: loading the model here.")
            with service_of(flags) as service:

                async def call() -> "Answer":
                    async with service.running():
                        return await service.predict_here(TENANT, name, payload)

                answer = asyncio.run(call())
    result = read_answer(answer)
    if isinstance(result, dict):
        outputs = {
            output: value if isinstance(value, list) else value.tolist()
            for output, value in result.items()
        }
        show({"outputs": outputs}, as_json, [f"{printable(n)}: {v}" for n, v in outputs.items()])
        return
    if isinstance(result, float) or (result and isinstance(result[0], float)):
        values = result if isinstance(result, list) else [result]
        show(result, as_json, [f"{value:.6g}" for value in values])
        return
    several = bool(result) and isinstance(result[0], list)
    groups = result if several else [result]
    rows = [
        (*([index] if several else []), label.label, f"{label.score:.6f}")
        for index, group in enumerate(groups)
        for label in group
    ]
    columns = (*(["input"] if several else []), "label", "score")
    show_table(result, as_json, columns, rows)


def read_file(file: Path, parameters: dict[str, Any]) -> "Payload":
    """The call that a file's content is. Raises InvalidInput."""
    import msgspec
    import numpy as np

    from lmaas.client import to_payload
    from lmaas.types import Payload

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
            return Payload(format="json", body=msgspec.json.encode(value))
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


def _parse(parameters: tuple[str, ...]) -> dict[str, Any]:
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
