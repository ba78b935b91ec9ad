"""Does a language model give its source's answers, in the engine that is to serve it?

The engine is run as a worker runs it: prompts of many lengths, alone and at once, whole and in
pieces, from a cold cache and from a shared one, each continued by several tokens. Knows engines and
stored references; no frameworks, no tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from PIL import Image

from lmaas.codecs.limits import Limits
from lmaas.errors import LMaaSError, ParityFailed
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.language import references
from lmaas.runtime.language.engine import (
    EngineOptions,
    LanguageEngine,
    Output,
    TokenSampling,
    make_language_engine,
)
from lmaas.runtime.language.pictures import Picture, Pictures
from lmaas.runtime.language.references import Reference
from lmaas.runtime.parity import NOT_COMPARABLE
from lmaas.types import LanguageSpec, ParityCheck, ParityReport, Precision

F32_ABS: Final = 1e-3
SERVED_ABS: Final = 2e-2
BF16_ABS: Final = 0.5
TOLERANCE: Final = {
    "f32_max_abs_error_of_logprobs": F32_ABS,
    "f32_max_abs_error_of_logprobs_with_16_bit_cache": SERVED_ABS,
    "bf16_max_abs_error_of_logprobs": BF16_ABS,
}
"""Largest difference of a natural-log probability. In f32 it shrinks with the standard deviation of
the source's log probabilities where that is below 1: a model that knows little differs little."""
CACHE_TOKENS: Final = 4096
"""Room in the cache beyond the longest prompts."""
SERVED_TOKENS: Final = 1200
"""Longer prompts are compared with an exact cache only: how it rounds shows in short ones."""


class Worst(msgspec.Struct):
    """The worst of what was compared: errors, and how often the likeliest token was the source's.

    `error` is relative to what was allowed there: over 1 is wrong.
    """

    abs_error: float = 0.0
    scaled_error: float = 0.0
    relative: float = 0.0
    agreed: int = 0
    compared: int = 0


def measure(
    folder: Path, sample: Path, spec: LanguageSpec, engine: str, *, bf16: bool = True
) -> ParityReport:
    """Run the engine of this name on the model in `folder`, in f32, and with `bf16` in bf16 where
    the CPU has it.

    Raises InvalidInput for a sample that contradicts itself, LMaaSError where the engine cannot
    run the model at all.
    """
    stored, notes = references.read(sample, spec)
    stored.sort(key=lambda reference: reference.length)
    short = [one for one in stored if one.length <= SERVED_TOKENS]
    checks = _run(folder, spec, engine, "f32", stored, exact=True)
    if engine == "openvino-genai":
        checks += _run(folder, spec, engine, "f32", short, exact=False)
    if bf16 and has_bf16():
        try:
            checks += _run(folder, spec, engine, "bf16", short, exact=False)
        except Exception:  # noqa: BLE001 - a network that has parts in f32 alone fails in its own way
            failed = Worst(NOT_COMPARABLE, NOT_COMPARABLE, NOT_COMPARABLE)
            checks.append(_check(f"{engine}: not run in bf16", "bf16", len(short), failed))
    return ParityReport(tolerance=TOLERANCE, checks=tuple(checks), notes=notes)


def problem_of(report: ParityReport) -> str | None:
    """What was wrong in f32, with the numbers; None where nothing was."""
    if report.passed("f32"):
        return None
    failed = [check for check in report.checks if check.precision == "f32" and not check.passed]
    told = "; ".join(f"{check.name}: {_error(check)}" for check in failed[:3])
    return f"{told}{f'; and {len(failed) - 3} more' if failed[3:] else ''}."


def require(report: ParityReport) -> None:
    """Raise ParityFailed, with the numbers, unless f32 passed everywhere."""
    if problem := problem_of(report):
        raise ParityFailed(
            f"The model's answers are not those of its source ({problem}) Nothing was published.",
            hint="Push the checkpoint again: then an engine is chosen that gives them.",
        )


def _error(check: ParityCheck) -> str:
    if check.max_abs_error == NOT_COMPARABLE:
        return "another token, or none"
    return f"log-probabilities differ by {check.max_abs_error:.3g}"


def _run(
    folder: Path,
    spec: LanguageSpec,
    name: str,
    precision: Precision,
    stored: Sequence[Reference],
    *,
    exact: bool,
) -> list[ParityCheck]:
    """Each prompt alone, then all at once: what is there of them already is taken from the cache.

    Without `exact` only all at once; an engine that has no such cache reads the short ones again.
    """
    tokens = CACHE_TOKENS + 2 * sum(len(reference.ids) for reference in stored)
    sequences = len(stored) + 1
    engine = make_language_engine(name)
    engine.load(
        folder,
        spec,
        EngineOptions(
            precision=precision,
            cache_bytes=2 * (tokens * spec.kv_bytes_per_token + sequences * spec.state_bytes),
            exact_cache=exact,
        ),
    )
    pictures = None
    if spec.vision is not None:
        pictures = Pictures(folder, spec.vision, precision, Limits())
    bound = BF16_ABS if precision == "bf16" else F32_ABS if exact else SERVED_ABS
    groups = [[reference] for reference in stored] if exact else []
    if name == "torch":
        stored = [reference for reference in stored if reference.length <= SERVED_TOKENS]
    if len(stored) > 1 or not groups:
        groups.append(list(stored))
    checks = []
    try:
        for group in groups:
            worst = Worst()
            _compare(engine, pictures, group, bound, precision, worst)
            what = _told(group[0]) if len(group) == 1 else f"{len(group)} at once"
            cache = "" if exact or precision == "bf16" else ", 16-bit cache"
            checks.append(_check(f"{name}: {what}{cache}", precision, len(group), worst))
    finally:
        engine.close()
    return checks


def _told(reference: Reference) -> str:
    seen = len(reference.pictures)
    images = f", {seen} image{'s' if seen > 1 else ''}" if seen else ""
    return f"{reference.length} tokens{images}"


def _check(name: str, precision: Precision, batch_size: int, worst: Worst) -> ParityCheck:
    return ParityCheck(
        name=name,
        precision=precision,
        batch_size=batch_size,
        max_abs_error=min(worst.abs_error, NOT_COMPARABLE),
        max_scaled_error=min(worst.scaled_error, NOT_COMPARABLE),
        top1_agreement=worst.agreed / max(1, worst.compared),
        passed=worst.relative <= 1,
    )


def _compare(
    engine: LanguageEngine,
    pictures: Pictures | None,
    group: Sequence[Reference],
    bound: float,
    precision: Precision,
    worst: Worst,
) -> None:
    """Let the engine continue each prompt, and hold its tokens against the source's.

    Where it takes another token that is as good, it begins again after the source's own one.
    """
    waiting = [(reference, 0) for reference in group]
    while waiting:
        asked = dict(enumerate(waiting))
        for number, (reference, row) in asked.items():
            sampling = TokenSampling(max_tokens=reference.rows - row, temperature=0.0, logprobs=0)
            prompt = reference.ids[: reference.length + row].tolist()
            engine.add(number, prompt, sampling, _seen(pictures, reference))
        waiting = []
        for number, output in _answers(engine, len(asked)).items():
            reference, row = asked[number]
            allowed = bound if precision == "bf16" else bound * min(1.0, reference.spread)
            again = _judge(reference, row, output, max(allowed, 1e-6), worst)
            if again is not None:
                waiting.append((reference, again))


def _seen(pictures: Pictures | None, reference: Reference) -> list[Picture]:
    assert pictures is not None or not reference.pictures
    return (
        []
        if pictures is None
        else [pictures.see(Image.fromarray(pixels)) for pixels in reference.pictures]
    )


def _answers(engine: LanguageEngine, count: int) -> dict[int, Output]:
    """The whole answers of `count` sequences. Raises LMaaSError when one fails or is missing."""
    answers: dict[int, Output] = {}
    while engine.busy():
        for output in engine.step():
            if output.error is not None:
                raise output.error
            before = answers.get(output.sequence, Output(output.sequence, []))
            answers[output.sequence] = Output(
                output.sequence,
                [*before.tokens, *output.tokens],
                [*before.scores, *output.scores],
            )
    if len(answers) != count:
        raise LMaaSError(f"The engine answered {len(answers)} of {count} prompts.")
    return answers


def _judge(
    reference: Reference, row: int, answer: Output, allowed: float, worst: Worst
) -> int | None:
    """Compare one answer, which begins at `row`; the row to begin again at, None for none."""
    if len(answer.tokens) != reference.rows - row or len(answer.scores) != len(answer.tokens):
        worst.abs_error = worst.scaled_error = worst.relative = NOT_COMPARABLE
        return None
    for token, score in zip(answer.tokens, answer.scores, strict=True):
        told, logprobs = reference.tokens[row], reference.logprobs[row]
        places = (told == token).nonzero()[0]
        worst.compared += 1
        if not len(places) or score.logprob is None or not abs(score.logprob) < NOT_COMPARABLE:
            worst.abs_error = worst.scaled_error = worst.relative = NOT_COMPARABLE
            return None
        place = int(places[0])
        error = abs(score.logprob - float(logprobs[place]))
        # Another token than the likeliest is right where both are as good.
        short = float(logprobs[0] - logprobs[place]) / 2
        worst.abs_error = max(worst.abs_error, error, short)
        worst.scaled_error = max(
            worst.scaled_error, max(error, short) / max(abs(float(logprobs[place])), 1e-12)
        )
        worst.relative = max(worst.relative, error / allowed, short / allowed)
        worst.agreed += short <= allowed
        row += 1
        if short > allowed:
            return None
        if row < reference.rows and token != reference.ids[reference.length + row - 1]:
            return row
    return None
