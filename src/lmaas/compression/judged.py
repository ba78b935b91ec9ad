"""Child entry: one compressed variant of a model that is no language model, with its report.

The task's own metric on samples judges it; an encoder-decoder without samples is judged by the
tokens that its source wrote when it was imported. Run by `placement.sandbox` only.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.compression import asking, integers
from lmaas.errors import InvalidInput
from lmaas.runtime.sequence import parity
from lmaas.tasks import Task
from lmaas.types import (
    JSON,
    Answer,
    CompressOptions,
    CompressSample,
    Manifest,
    Measured,
    Payload,
    Precision,
    Record,
    VariantReport,
)

AT_ONCE: Final = 32
AGREEMENT: Final = "agreement"
"""The metric without samples: the share of tokens that are those of the source."""


class JudgeRequest(Record, frozen=True, kw_only=True):
    """The package in `folder` gets a compressed variant in `target`.

    How far it is goes into the file `progress`, a `types.Progress` in JSON each line.
    """

    folder: str
    target: str
    progress: str
    manifest: Manifest
    precision: Precision
    limits: Limits
    options: CompressOptions


class _Trial(Record, frozen=True, kw_only=True):
    """What one variant did: its numbers, and its answer to each sample."""

    numbers: Measured
    answers: tuple[str, ...] = ()
    agreement: float = 1.0


def run(body: bytes) -> bytes:
    """Make and measure one variant; its VariantReport. Raises InvalidInput, MissingExtra."""
    request = msgspec.json.decode(body, type=JudgeRequest)
    options, manifest = request.options, request.manifest
    if options.to == "bf16":
        raise InvalidInput("bf16 is made of language models; take int8 or int4.", param="to")
    if options.text is not None:
        raise InvalidInput(
            f"A text is for language models; a model for {manifest.task} is measured on samples.",
            param="text",
        )
    integers.check(options)
    compiled, target = Path(request.folder) / "compiled", Path(request.target)
    say = integers.teller(Path(request.progress))
    judge = _by_samples if options.samples else _by_references
    # First, so that samples that cannot be used are refused before the work.
    source = judge(request, compiled, lambda done: say("measuring the source", done))
    target.mkdir(parents=True)
    graphs = sorted(path.name for path in compiled.glob("*.xml"))
    method: dict[str, Any] = {}
    with integers.installed():
        for number, name in enumerate(graphs):
            say(f"making {options.to}", number / len(graphs))
            method = integers.shrink(options, compiled / name, target / name)
    integers.copy_rest(compiled, target, graphs)
    made = judge(request, target, lambda done: say(f"measuring {options.to}", done))
    metric = tasks.spec(manifest.task).primary if options.samples else AGREEMENT
    agreement = made.agreement
    if options.samples:
        same = [a == b for a, b in zip(source.answers, made.answers, strict=True)]
        agreement = sum(same) / len(same)
    report = VariantReport(
        source=source.numbers,
        compressed=made.numbers,
        metric=metric,
        drop=_drop(manifest.task, metric, source.numbers, made.numbers),
        max_drop=options.max_drop,
        token_agreement=agreement,
        samples=len(options.samples),
        text=_digest(options.samples),
        method={**method, "precision": request.precision, "graphs": graphs},
    )
    return msgspec.json.encode(report)


def _digest(samples: tuple[CompressSample, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(samples)).hexdigest() if samples else ""


def _drop(task: str, metric: str, source: Measured, made: Measured) -> float:
    """How much worse the metric is, as a share of the most that it can be."""
    before, after = source.metrics[metric], made.metrics[metric]
    if metric == AGREEMENT:
        return before - after
    judge = tasks.spec(task).judge
    assert judge is not None
    return (after - before if judge.falls else before - after) / judge.most


def _by_samples(request: JudgeRequest, folder: Path, tell: Callable[[float], None]) -> _Trial:
    manifest, samples = request.manifest, request.options.samples
    task, judge = tasks.get(manifest.task), tasks.spec(manifest.task).judge
    assert judge is not None
    began = time.perf_counter()
    model = asking.load(folder, manifest, request.precision, request.limits)
    load_s = time.perf_counter() - began
    answers: list[str] = []
    new_tokens = 0
    try:
        began = time.perf_counter()
        for start in range(0, len(samples), AT_ONCE):
            some = samples[start : start + AT_ONCE]
            for answer in _ask(model, some, start, several=task.spec.rows_per_call > 1):
                new_tokens += answer.new_tokens
                answers.append(_told(task, msgspec.json.decode(answer.body)))
            tell((start + len(some)) / len(samples))
        took = time.perf_counter() - began
    finally:
        model.close()
    measured = tasks.judge(judge)(answers, [sample.expected for sample in samples])
    if tasks.spec(manifest.task).primary not in measured:
        raise InvalidInput("The samples expect nothing that can be measured.", param="samples")
    numbers = Measured(
        size_bytes=_size(folder),
        metrics=measured,
        load_s=load_s,
        calls_per_s=len(samples) / took,
        tokens_per_s=new_tokens / took if new_tokens else None,
    )
    return _Trial(numbers=numbers, answers=tuple(answers))


def _payload(sample: CompressSample, *, several: bool) -> Payload:
    inputs = [sample.inputs] if several and not isinstance(sample.inputs, list) else sample.inputs
    body = {"inputs": inputs}
    if sample.parameters:
        body["parameters"] = sample.parameters
    return Payload(media_type=JSON, body=msgspec.json.encode(body))


def _ask(
    model: asking.Asked, samples: tuple[CompressSample, ...], start: int, *, several: bool
) -> list[Answer]:
    try:
        return model.ask([_payload(sample, several=several) for sample in samples])
    except InvalidInput as error:
        raise InvalidInput(
            f"samples[{start}] to samples[{start + len(samples) - 1}]: {error.message}",
            hint=error.hint,
            param="samples",
        ) from None


def _told(task: Task, result: Any) -> str:
    """The first new value that an answer gives: a text, the likeliest label, or boxes as JSON."""
    records = task.records(result)
    if len(records) != 1:
        raise InvalidInput("A sample is one call with one input.", param="samples")
    value = next(iter(records[0].values()))
    return msgspec.json.encode(value).decode() if isinstance(value, list) else str(value)


def _by_references(request: JudgeRequest, folder: Path, tell: Callable[[float], None]) -> _Trial:
    spec = request.manifest.signature.sequence
    if spec is None:
        raise InvalidInput(
            f"A model for {request.manifest.task} is compressed by what it does with samples.",
            hint="Give calls and their right answers: --data FILE --expected COLUMN.",
            param="samples",
        )
    began = time.perf_counter()
    report = parity.measure(folder, Path(request.folder) / "sample.safetensors", spec)
    took = time.perf_counter() - began
    tell(1.0)
    share = sum(check.top1_agreement or 0.0 for check in report.checks) / len(report.checks)
    numbers = Measured(size_bytes=_size(folder), metrics={AGREEMENT: share}, load_s=took)
    return _Trial(numbers=numbers, agreement=share)


def _size(folder: Path) -> int:
    return sum(path.with_suffix(".bin").stat().st_size for path in folder.glob("*.xml"))
