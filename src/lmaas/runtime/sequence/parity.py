"""Does the engine write what the source of an encoder-decoder wrote? Measured on its references.

All cases run together, as requests of many callers would, greedy ones beside those of beams. In
bf16 the greedy ones are compared token by token, each after the source's own tokens before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput, ParityFailed
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.parity import NOT_COMPARABLE
from lmaas.runtime.sequence import references
from lmaas.runtime.sequence.calls import Decoding, SequenceCall, SequenceResult
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.runtime.sequence.references import Reference
from lmaas.types import ParityCheck, ParityReport, Precision, SequenceSpec

TOLERANCE: Final = 2e-3
"""How far a token's log probability may be off in f32."""
BF16_TOLERANCE: Final = 0.5
"""The same in bf16, as for language models."""
MAX_SEQUENCES: Final = 64
MOST_STEPS: Final = 100_000


def measure(folder: Path, sample: Path, spec: SequenceSpec, *, bf16: bool = False) -> ParityReport:
    """Run the graphs in `folder` on the references in `sample`, with `bf16` in bf16 too where the
    CPU has it.

    Raises InvalidInput where these do not fit the spec.
    """
    told = references.read(sample)
    if not told:
        raise InvalidInput(f"{sample.name} has no references.")
    with _loaded(folder, spec, "f32") as engine:
        results = _run(engine, list(map(_call, told)))
    checks = [_check("f32", number, each, results[number]) for number, each in enumerate(told)]
    notes = tuple(
        f"Case {number}: two tokens are equally probable, and another one was taken."
        for number, (each, check) in enumerate(zip(told, checks, strict=True))
        if check.passed and check.top1_agreement != 1
    )
    tolerance = {"logprob": TOLERANCE}
    if bf16 and has_bf16():
        with _loaded(folder, spec, "bf16") as engine:
            checks += _followed(engine, [each for each in told if each.how.beams == 1])
        tolerance["bf16_logprob"] = BF16_TOLERANCE
    return ParityReport(tolerance=tolerance, checks=tuple(checks), notes=notes)


@contextmanager
def _loaded(folder: Path, spec: SequenceSpec, precision: Precision) -> Iterator[SequenceEngine]:
    engine = SequenceEngine()
    engine.load(folder, spec, EngineOptions(precision=precision, max_sequences=MAX_SEQUENCES))
    try:
        yield engine
    finally:
        engine.close()


def require(report: ParityReport) -> None:
    """Raise ParityFailed unless all checks passed."""
    checks = [check for check in report.checks if check.precision == "f32"]
    failed = [check for check in checks if not check.passed]
    if failed:
        raise ParityFailed(
            f"The compiled model does not write what its source writes: in {len(failed)} of "
            f"{len(checks)} cases, first in {failed[0].name} "
            f"({failed[0].top1_agreement or 0:.0%} of the tokens are alike, log probabilities are "
            f"up to {failed[0].max_abs_error:.2g} apart).",
            hint="Publish a model whose architecture is supported, or tell us of this one.",
        )


def decoding_of(reference: Reference) -> Decoding:
    """How the case is decoded."""
    how = reference.how
    return Decoding(
        prompt=reference.prompt,
        counted=how.counted,
        max_tokens=how.max_tokens,
        beams=how.beams,
        length_penalty=how.length_penalty,
        suppressed=how.suppressed,
        suppressed_first=how.suppressed_first,
        forced_last=how.forced_last,
        stop_token_ids=how.stop_token_ids,
        scores=True,
    )


def _call(reference: Reference) -> SequenceCall:
    return SequenceCall(tag=None, source=reference.source, decoding=decoding_of(reference))


def _run(engine: SequenceEngine, calls: list[SequenceCall]) -> dict[int, SequenceResult]:
    """The results of all calls; each begins a step after the one before it."""
    results: dict[int, SequenceResult] = {}
    for step in range(MOST_STEPS):
        if step < len(calls):
            engine.add(step, calls[step])
        for output in engine.step():
            if output.result is not None:
                results[output.sequence] = output.result
        if len(results) == len(calls):
            break
    return results


class _Followed(msgspec.Struct, kw_only=True):
    """A case in bf16: at which of its tokens it is, and the worst so far."""

    reference: Reference
    at: int = 0
    error: float = 0.0
    alike: int = 0


def _followed(engine: SequenceEngine, told: list[Reference]) -> list[ParityCheck]:
    """Checks of greedy cases in bf16: where another token is taken that is as good, the case goes
    on after the source's own one."""
    cases = [_Followed(reference=reference) for reference in told]
    waiting = list(cases)
    while waiting:
        results = _run(engine, [_rest(case) for case in waiting])
        waiting = [case for number, case in enumerate(waiting) if _follow(case, results[number])]
    return [
        ParityCheck(
            precision="bf16",
            batch_size=1,
            name=f"bf16: case {number}, source of {case.reference.source.shape[-1]}",
            max_abs_error=case.error,
            max_scaled_error=case.error,
            top1_agreement=case.alike / max(1, len(case.reference.tokens)),
            passed=case.error <= BF16_TOLERANCE,
        )
        for number, case in enumerate(cases)
    ]


def _rest(case: _Followed) -> SequenceCall:
    """The call that goes on after the tokens that have been compared."""
    decoding = decoding_of(case.reference)
    if case.at:
        decoding = msgspec.structs.replace(
            decoding,
            prompt=(*decoding.prompt, *case.reference.tokens[: case.at]),
            suppressed_first=(),
        )
    return SequenceCall(tag=None, source=case.reference.source, decoding=decoding)


def _follow(case: _Followed, result: SequenceResult) -> bool:
    """Compare what was written; whether the case is to go on."""
    if result.error is not None:
        case.error = NOT_COMPARABLE
        return False
    best = result.candidates[0]
    want, scores = case.reference.tokens[case.at :], case.reference.scores[case.at :]
    for token, wanted, score, own in zip(best.tokens, want, best.scores, scores, strict=False):
        case.error = max(case.error, abs(float(score) - float(own)))
        case.at += 1
        if token != wanted:
            return case.error <= BF16_TOLERANCE and case.at < len(case.reference.tokens)
        case.alike += 1
    if len(best.tokens) < len(want):
        # It ended where the source goes on.
        ended = best.logprob - sum(best.scores)
        case.error = max(case.error, abs(ended - float(scores[len(best.tokens)])))
        case.at += 1
        return case.error <= BF16_TOLERANCE and case.at < len(case.reference.tokens)
    return False


def _check(
    precision: Precision, number: int, reference: Reference, result: SequenceResult
) -> ParityCheck:
    if result.error is not None:
        raise ParityFailed(f"Case {number} failed: {result.error}")
    best = result.candidates[0]
    want, got = np.array(reference.tokens), np.array(best.tokens)
    size = min(len(want), len(got))
    unlike = np.flatnonzero(want[:size] != got[:size])
    same = size if not len(unlike) else int(unlike[0])
    scores = np.array(best.scores, np.float64)[:same]
    error = float(np.abs(scores - reference.scores[:same]).max(initial=0.0))
    equal = len(want) == len(got) == same
    tied = not equal and _tied(reference, best.scores, same, best.logprob)
    longest = max(len(want), len(got), 1)
    return ParityCheck(
        precision=precision,
        batch_size=reference.how.beams,
        name=f"case {number}, {reference.how.beams} beams, source of {reference.source.shape[-1]}",
        max_abs_error=error,
        max_scaled_error=error,
        top1_agreement=1.0 if equal else same / longest,
        passed=(equal or tied) and error <= TOLERANCE,
    )


def _tied(reference: Reference, scores: tuple[float, ...], same: int, logprob: float) -> bool:
    """Whether both are equally good: the first tokens that differ, or the beams as a whole."""
    if reference.how.beams > 1:
        return abs(logprob - float(reference.scores.sum())) <= TOLERANCE
    if same >= len(scores) or same >= len(reference.scores):
        return False
    return abs(scores[same] - float(reference.scores[same])) <= TOLERANCE
