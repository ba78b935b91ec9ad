"""Child entry: one compressed variant of a language model's package, with its report.

int8 and int4 are NNCF's weight compression of the compiled model; bf16 is compiled again from the
source with its weights rounded. Run by `placement.sandbox` only.
"""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from lmaas.compression import integers, measure
from lmaas.errors import InvalidInput
from lmaas.runtime import ov
from lmaas.runtime.language.stateful import MODEL
from lmaas.types import CompressOptions, Precision, Record, VariantReport


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
    say = integers.teller(Path(request.progress))
    say(f"making {options.to}", 0.0)
    with integers.installed():
        method = _make(request, compiled, target)
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
        drop=_perplexity(made) / _perplexity(source) - 1,
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


def _perplexity(measured: measure.Measurement) -> float:
    assert measured.numbers.perplexity is not None
    return measured.numbers.perplexity


def built_in_text() -> str:
    """A text in several languages, with code and JSON, written for this."""
    return (files("lmaas.compression") / "text.txt").read_text("utf-8")


def _make(request: CompressRequest, compiled: Path, target: Path) -> dict[str, Any]:
    """Write the variant's files; how it was made."""
    options = request.options
    integers.check(options)
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
        method = integers.shrink(options, compiled / MODEL, target / MODEL)
    integers.copy_rest(compiled, target, [MODEL])
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
    import torch
    from transformers import AutoModelForCausalLM

    from lmaas.frameworks import causal, checkpoint

    model = checkpoint.load_model(AutoModelForCausalLM, source, torch.bfloat16)
    causal.export(model, target)
