"""Child entry: one compressed variant of a language model's package, with its report.

int8 and int4 are NNCF's weight compression of the compiled model; bf16 is compiled again from the
source with its weights rounded. Run by `placement.sandbox` only.
"""

import hashlib
import math
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.compression import measure
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.runtime import ov
from lmaas.runtime.language.stateful import MODEL
from lmaas.runtime.lean_transformers import import_generation
from lmaas.types import CompressOptions, Precision, Progress, Record, VariantReport

GROUP_SIZES: Final = (64, 32, 16)
"""Group sizes of int4, tried in this order: the first that divides every channel is taken."""
INSTALL: Final = "pip install 'lmaas[language]'."


class CompressRequest(Record, frozen=True, kw_only=True):
    """The package in `folder` gets a compressed variant in `target`.

    How far it is goes into the file `progress`, a `types.Progress` in JSON each line.
    """

    folder: str
    target: str
    progress: str
    context_length: int
    precision: Precision
    options: CompressOptions


def run(body: bytes) -> bytes:
    """Make and measure one variant; its VariantReport. Raises InvalidInput, MissingExtra."""
    request = msgspec.json.decode(body, type=CompressRequest)
    options = request.options
    compiled, target = Path(request.folder) / "compiled", Path(request.target)
    text = options.text if options.text is not None else built_in_text()
    ids = measure.tokens_of(compiled, text, request.context_length)
    say = _teller(Path(request.progress))
    say(f"making {options.to}", 0.0)
    try:
        method = _make(request, compiled, target)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Compressing needs {error.name}, which is not installed here.", hint=INSTALL
        ) from None
    measured = [
        measure.measure(
            folder,
            ids,
            request.context_length,
            request.precision,
            lambda done, stage=stage: say(stage, done),  # type: ignore[misc]  # a default binds it
        )
        for stage, folder in (
            ("measuring the source", compiled),
            (f"measuring {options.to}", target),
        )
    ]
    source, made = measured
    share, first = measure.agreement(source.continued, made.continued)
    report = VariantReport(
        source=source.numbers,
        compressed=made.numbers,
        perplexity_rise=made.numbers.perplexity / source.numbers.perplexity - 1,
        max_drop=options.max_drop,
        token_agreement=share,
        first_differences=first,
        new_tokens=len(made.continued[0]),
        text="built-in"
        if options.text is None
        else hashlib.sha256(options.text.encode()).hexdigest(),
        text_tokens=len(ids),
        method={**method, "precision": request.precision},
    )
    return msgspec.json.encode(report)


def built_in_text() -> str:
    """A text in several languages, with code and JSON, written for this."""
    return (files("lmaas.compression") / "text.txt").read_text("utf-8")


def _teller(path: Path) -> Callable[[str, float], None]:
    def say(stage: str, done: float) -> None:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(Progress(stage=stage, done=done)) + b"\n")

    return say


def _make(request: CompressRequest, compiled: Path, target: Path) -> dict[str, Any]:
    """Write the variant's files; how it was made."""
    options = request.options
    for option in ("group_size", "ratio"):
        if getattr(options, option) is not None and options.to != "int4":
            raise InvalidInput(f"{options.to} takes no {option}; int4 does.", param=option)
    stored = _stored(compiled)
    if options.to == "bf16" and stored != "f32":
        raise InvalidInput(
            f"The model's weights are {stored} already: bf16 would be no smaller.",
            hint="Take int8 or int4.",
            param="to",
        )
    if options.to == "bf16":
        _round(Path(request.folder) / "source", target)
        method: dict[str, Any] = {"weights": "bf16"}
    else:
        target.mkdir(parents=True)
        method = _compress(options, compiled, target)
    model = (MODEL, Path(MODEL).with_suffix(".bin").name)
    shutil.copytree(compiled, target, ignore=shutil.ignore_patterns(*model), dirs_exist_ok=True)
    return method


def _stored(compiled: Path) -> str:
    """The type in which most of the compiled model's weights are kept ("f32", "bf16", …)."""
    bytes_of: dict[str, int] = {}
    model = ov.core().read_model(compiled / MODEL)
    for op in model.get_ops():
        if op.get_type_name() == "Constant":
            name = op.get_element_type().get_type_name()
            bytes_of[name] = bytes_of.get(name, 0) + op.get_byte_size()
    return max(bytes_of, key=bytes_of.__getitem__)


def _round(source: Path, target: Path) -> None:
    ov.load()
    import_generation()
    import torch
    from transformers import AutoModelForCausalLM

    from lmaas.frameworks import causal, checkpoint

    model = checkpoint.load_model(AutoModelForCausalLM, source, torch.bfloat16)
    causal.export(model, target)


def _compress(options: CompressOptions, compiled: Path, target: Path) -> dict[str, Any]:
    openvino = ov.load()
    import nncf

    model = ov.core().read_model(compiled / MODEL)
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
    openvino.save_model(made, target / MODEL, compress_to_fp16=False)
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
