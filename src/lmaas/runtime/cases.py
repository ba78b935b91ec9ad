"""The cases on which a source model and what is served are compared, and their file.

`sample.safetensors` holds tensors `in.<case>.<name>` and `out.<case>.<name>`; its metadata says
what each case is, and what else was found out about the source. Texts lie there as their bytes.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Tensors
from lmaas.types import Record

SAMPLE_FILE: Final = "sample.safetensors"
FORMAT: Final = "lmaas"
"""The metadata's key."""
NumberFormat = Literal["f64", "f32", "bf16", "f16", "int8"]
"""The least exact floating-point numbers that a model computes with."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs, and the source's outputs for them; None where the source fails on them."""

    name: str
    inputs: Tensors
    outputs: Tensors | None


class About(Record, frozen=True, kw_only=True):
    """What the metadata says. `random` names the outputs that the source draws at random;
    `decided_by` those that say which column of another output is the largest.
    """

    names: tuple[str, ...] = ()
    fails: tuple[int, ...] = ()
    strings: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    random: tuple[str, ...] = ()
    decided_by: dict[str, str] = msgspec.field(default_factory=dict)
    computes_in: NumberFormat = "f32"
    notes: tuple[str, ...] = ()


def write(path: Path, cases: list[Case], about: About) -> None:
    """Write the cases of a package."""
    from safetensors.numpy import save_file

    tensors: Tensors = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, case in enumerate(cases):
        for side, arrays in (("in", case.inputs), ("out", case.outputs or {})):
            for name, array in arrays.items():
                key = f"{side}.{number}.{name}"
                if array.dtype.kind == "O":
                    shapes[key] = array.shape
                    array = strings.pack(array)
                # Not `ascontiguousarray`: a number alone would become a row of one.
                tensors[key] = np.asarray(array, order="C")
    told = msgspec.structs.replace(
        about,
        names=tuple(case.name for case in cases),
        fails=tuple(number for number, case in enumerate(cases) if case.outputs is None),
        strings=shapes,
    )
    save_file(tensors, path, {FORMAT: msgspec.json.encode(told).decode()})


def read(path: Path) -> tuple[list[Case], About]:
    """The cases of a package. Raises InvalidInput for a file that contradicts itself."""
    from safetensors import SafetensorError, safe_open

    tensors: Tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get(FORMAT)
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                tensors[key] = file.get_tensor(key)
        about = About() if told is None else msgspec.json.decode(told, type=About)
        for key, shape in about.strings.items():
            tensors[key] = strings.unpack(tensors[key].tobytes(), name=key).reshape(shape)
        sides: dict[int, tuple[Tensors, Tensors]] = {}
        for key, array in tensors.items():
            side, number, name = key.split(".", 2)
            sides.setdefault(int(number), ({}, {}))[side == "out"][name] = array
    except (SafetensorError, OSError, ValueError, KeyError, msgspec.DecodeError) as error:
        raise InvalidInput(f"The package's {path.name} is not valid: {error}.") from None
    numbered = sorted(sides.items())
    if not numbered or not all(inputs for _, (inputs, _) in numbered):
        raise InvalidInput(f"The package's {path.name} holds no sample inputs.")
    names = about.names if len(about.names) == len(numbered) else ()
    return [
        Case(
            name=names[place] if names else f"batch {number}",
            inputs=inputs,
            outputs=None if number in about.fails else outputs,
        )
        for place, (number, (inputs, outputs)) in enumerate(numbered)
    ], about
