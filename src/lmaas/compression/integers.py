"""Weights as integers: NNCF's weight compression of compiled models, without data."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput, MissingExtra
from lmaas.runtime import ov
from lmaas.types import CompressOptions, Progress

GROUP_SIZES: Final = (64, 32, 16)
"""Group sizes of int4, tried in this order: the first that divides every channel is taken."""
INSTALL: Final = "pip install 'lmaas[language]'."


def check(options: CompressOptions) -> None:
    """Raise InvalidInput naming an option that the variant does not take."""
    for option in ("group_size", "ratio"):
        if getattr(options, option) is not None and options.to != "int4":
            raise InvalidInput(f"{options.to} takes no {option}; int4 does.", param=option)


@contextmanager
def installed() -> Iterator[None]:
    """What is done inside needs packages. Raises MissingExtra for one that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Compressing needs {error.name}, which is not installed here.", hint=INSTALL
        ) from None


def teller(path: Path) -> Callable[[str, float], None]:
    """What writes how far the work is into the file `path`."""

    def say(stage: str, done: float) -> None:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(Progress(stage=stage, done=done)) + b"\n")

    return say


def copy_rest(compiled: Path, target: Path, models: Sequence[str]) -> None:
    """Copy what lies beside the compiled `models`."""
    made = [name for model in models for name in (model, Path(model).with_suffix(".bin").name)]
    shutil.copytree(compiled, target, ignore=shutil.ignore_patterns(*made), dirs_exist_ok=True)


def shrink(options: CompressOptions, source: Path, target: Path) -> dict[str, Any]:
    """Write the compiled model `source` with its weights as integers; how it was made.

    Raises InvalidInput for a group size that does not fit.
    """
    openvino = ov.load()
    import nncf

    model = ov.core().read_model(source)
    if options.to == "int8":
        mode, how = nncf.CompressWeightsMode.INT8_ASYM, {}
        method: dict[str, Any] = {"weights": "int8_asym"}
    else:
        group = options.group_size or _group_size(model)
        ratio = 1.0 if options.ratio is None else options.ratio
        mode = nncf.CompressWeightsMode.INT4_ASYM
        how = {"group_size": group, "ratio": ratio, "awq": True}
        method = {"weights": "int4_asym", "group_size": group, "ratio": ratio, "awq": "data-free"}
    try:
        made = nncf.compress_weights(model, mode=mode, **how)
    except nncf.InvalidGroupSizeError as error:
        raise InvalidInput(
            f"The group size {how['group_size']} does not divide the model's channels: "
            f"{' '.join(str(error).split())[:200]}",
            param="group_size",
        ) from None
    openvino.save_model(made, target, compress_to_fp16=False)
    return {**method, "nncf": nncf.__version__}


def _group_size(model: Any) -> int:
    """The largest of `GROUP_SIZES` that divides the inner size of every matrix product."""
    divisor = 0
    for op in model.get_ops():
        if op.get_type_name() == "MatMul" and op.input(1).get_partial_shape().is_static:
            shape = op.input(1).get_shape()
            divisor = math.gcd(
                divisor, shape[-1] if op.get_attributes()["transpose_b"] else shape[-2]
            )
    for size in GROUP_SIZES:
        if divisor % size == 0:
            return size
    raise InvalidInput(
        f"No group size of {GROUP_SIZES} divides the model's channels ({divisor}).",
        hint="Take int8, or say --group-size.",
        param="group_size",
    )
