"""Does the engine write what the source of an encoder-decoder wrote? Measured on its references.

All cases run together, as requests of many callers would, greedy ones beside those of beams.
"""

from pathlib import Path
from typing import Final

import numpy as np

from lmaas.errors import InvalidInput, ParityFailed
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.sequence import references
from lmaas.runtime.sequence.calls import Decoding, SequenceCall, SequenceResult
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.runtime.sequence.references import Reference
from lmaas.types import ParityCheck, ParityReport, Precision, SequenceSpec

TOLERANCE: Final = 2e-3
"""How far a token's log probability may be off in f32."""
MAX_SEQUENCES: Final = 64
MOST_STEPS: Final = 100_000


def measure(folder: Path, sample: Path, spec: SequenceSpec) -> ParityReport:
    """Run the graphs in `folder` on the references in `sample`.

    Raises InvalidInput where these do not fit the spec.
    """
    told = references.read(sample)
    if not told:
        raise InvalidInput(f"{sample.name} has no references.")
    engine = SequenceEngine()
    precision: Precision = "f32"
    engine.load(folder, spec, EngineOptions(precision=precision, max_sequences=MAX_SEQUENCES))
    try:
        results = _run(engine, told)
    finally:
        engine.close()
    checks = [_check(precision, number, each, results[number]) for number, each in enumerate(told)]
    notes = tuple(
        f"Case {number}: two tokens are equally probable, and another one was taken."
        for number, (each, check) in enumerate(zip(told, checks, strict=True))
        if check.passed and check.top1_agreement != 1
    )
    return ParityReport(tolerance={"logprob": TOLERANCE}, checks=tuple(checks), notes=notes)


def require(report: ParityReport) -> None:
    """Raise ParityFailed unless all checks passed."""
    failed = [check for check in report.checks if not check.passed]
    if failed:
        raise ParityFailed(
            f"The compiled model does not write what its source writes: in {len(failed)} of "
            f"{len(report.checks)} cases, first in {failed[0].name} "
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


def _run(engine: SequenceEngine, told: list[Reference]) -> dict[int, SequenceResult]:
    """The results of all cases; each begins a step after the one before it."""
    results: dict[int, SequenceResult] = {}
    for step in range(MOST_STEPS):
        if step < len(told):
            call = SequenceCall(
                tag=step, source=told[step].source, decoding=decoding_of(told[step])
            )
            engine.add(step, call)
        for output in engine.step():
            if output.result is not None:
                results[output.sequence] = output.result
        if len(results) == len(told):
            break
    return results


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
