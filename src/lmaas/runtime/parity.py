"""Does what is served give the source's outputs? Measured on the package's own cases.

The model is loaded by the engine that will serve it and asked with arrays as requests bring them.
Knows stored reference outputs, no frameworks: the source was run when the package was made.
"""

import sys
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from lmaas import tasks
from lmaas.codecs import tensor
from lmaas.errors import InvalidInput, LMaaSError, ParityFailed
from lmaas.runtime import cases
from lmaas.runtime.cases import SAMPLE_FILE, About, Case, NumberFormat
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.engine import ENGINES, Engine, make_engine
from lmaas.runtime.padding import Padding
from lmaas.tasks import Tensors
from lmaas.tasks.base import Orderless
from lmaas.types import EngineName, ParityCheck, ParityReport, Precision, Signature

NOT_COMPARABLE: Final = sys.float_info.max
"""The error of outputs that are not both numbers or differ in shape: JSON has no infinity."""


class Tolerance(NamedTuple):
    """How far outputs may be apart: of probabilities, and of others by their largest. An absolute
    error below `small` is rounding, however small the outputs are.
    """

    probability: float
    scaled: float
    small: float


TOLERANCES: Final[dict[NumberFormat, Tolerance]] = {
    "f64": Tolerance(1e-9, 1e-9, 1e-12),
    "f32": Tolerance(1e-4, 1e-4, 1e-6),
    "f16": Tolerance(0.01, 0.01, 1e-4),
    "bf16": Tolerance(0.04, 0.04, 1e-3),
    "int8": Tolerance(0.05, 0.05, 1e-3),
}
"""By the least exact numbers that the source itself computes with."""
MANY: Final = 64
"""So many random numbers have about the spread of all of them."""
SAME: Final = 1e-9
WAVER: Final = 1e-5
"""So little changes in an input may change no answer that is compared."""
SERVED_IN_BF16: Final = Tolerance(0.01, 0.005, 1e-6)
"""What a model may lose by being served in bf16, unasked; its labels stay the same, all of them."""


def measure(
    package: Path, signature: Signature, task: str, engine: EngineName, *, bf16: bool = True
) -> ParityReport:
    """Run the served model on every case in f32, and in bf16 where the CPU has it and it may be.

    Raises InvalidInput where the sample does not fit the signature.
    """
    compared, about = cases.read(package / SAMPLE_FILE)
    exact = TOLERANCES[about.computes_in]
    precisions: tuple[Precision, ...] = ("f32",)
    if bf16 and "bf16" in ENGINES[engine].precisions and has_bf16() and about.computes_in == "f32":
        precisions = ("f32", "bf16")
    checks = []
    undecided: list[str] = []
    for precision in precisions:
        allowed = exact if precision == "f32" else SERVED_IN_BF16
        runner = make_engine(engine)
        runner.load(package / ENGINES[engine].folder, signature, precision, 0)
        try:
            for case in compared:
                got = _run(runner, case, signature)
                check = _check(precision, case, got, signature, task, allowed, about)
                wavers = (
                    precision == "f32"
                    and not check.passed
                    and _wavers(runner, case, got, signature, task, allowed, about)
                )
                if wavers:
                    undecided.append(case.name)
                else:
                    checks.append(check)
            if signature.pad_axis and precision == "f32":
                checks += _padded(runner, compared, signature, task, allowed, about)
            if about.random:
                checks.append(_draws(precision, runner, compared[0], signature, about.random))
        finally:
            runner.close()
    tolerance = {
        "max_abs_error_of_probabilities": exact.probability,
        "max_scaled_error": exact.scaled,
        "bf16_max_abs_error_of_probabilities": SERVED_IN_BF16.probability,
        "bf16_max_scaled_error": SERVED_IN_BF16.scaled,
    }
    notes = about.notes
    if undecided:
        # What rounding decides says nothing; but a model must be decided on most of its cases.
        notes = (*notes, "Not compared, since there rounding decides which rows are the best: "
                 f"{', '.join(undecided)}.")  # fmt: skip
        if 2 * len(undecided) > len(compared):
            checks.append(_failed("cases that rounding decides", len(undecided)))
    if about.computes_in != "f32":
        notes = (f"The source computes in {about.computes_in}: compared within {exact.scaled:g} of "
                 "the largest output.", *notes)  # fmt: skip
    return ParityReport(tolerance=tolerance, checks=tuple(checks), notes=notes)


def _wavers(
    runner: Engine,
    case: Case,
    got: Tensors | None,
    signature: Signature,
    task: str,
    allowed: Tolerance,
    about: About,
) -> bool:
    """Whether a model that picks the best rows picks others when its inputs change by rounding.

    On a picture of one colour all places are as good.
    """
    if got is None or not isinstance(tasks.get(task), Orderless):
        return False
    random = np.random.default_rng(0)
    inputs = {}
    for name, array in case.inputs.items():
        if array.dtype.kind != "f":
            return False
        step = WAVER * max(1.0, float(np.abs(array).max(initial=0)))
        inputs[name] = (array + step * random.standard_normal(array.shape)).astype(array.dtype)
    moved = _run(runner, Case(name=case.name, inputs=inputs, outputs=None), signature)
    own = Case(name=case.name, inputs=case.inputs, outputs=got)
    wide = allowed._replace(scaled=allowed.scaled * 100, small=allowed.small * 100)
    return not _check("f32", own, moved, signature, task, wide, about).passed


def _failed(name: str, count: int) -> ParityCheck:
    return ParityCheck(
        precision="f32",
        batch_size=count,
        name=name,
        max_abs_error=NOT_COMPARABLE,
        max_scaled_error=NOT_COMPARABLE,
        passed=False,
    )


def require(report: ParityReport) -> None:
    """Raise ParityFailed, with the numbers, unless f32 passed everywhere."""
    if not report.passed("f32"):
        raise ParityFailed(
            f"The served model does not give the source's outputs ({tell(report)}). Nothing was "
            "published.",
            hint="Random layers and control flow that depends on values are the usual causes: put "
            "the model in inference mode and make its outputs depend on its inputs alone.",
        )


def tell(report: ParityReport) -> str:
    """Which checks failed, and by how much."""
    failed = [c for c in report.checks if c.precision == "f32" and not c.passed]
    shown = "; ".join(
        f"{check.name}: "
        + (
            "NaN, infinity, another shape or an error"
            if check.max_abs_error == NOT_COMPARABLE
            else f"max error {check.max_abs_error:.3g}, scaled {check.max_scaled_error:.3g}"
        )
        for check in failed[:3]
    )
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{shown or 'no checks'}{more}; allowed {report.tolerance.get('max_scaled_error', 0):g}"


def _run(engine: Engine, case: Case, signature: Signature) -> Tensors | None:
    """What is served for a case; None where it is refused."""
    arrays = {name: array.copy() for name, array in case.inputs.items()}
    for array in arrays.values():
        array.flags.writeable = False  # as the arrays of a request's body are
    try:
        tensor.check_arrays(arrays, signature)
        return engine.infer(arrays)
    except (InvalidInput, LMaaSError):
        return None


def _check(
    precision: Precision,
    case: Case,
    got: Tensors | None,
    signature: Signature,
    task: str,
    allowed: Tolerance,
    about: About,
) -> ParityCheck:
    worst_abs = worst_scaled = 0.0
    agreement: float | None = None
    if case.outputs is None or got is None:
        # What the source refuses must be refused.
        fits = case.outputs is None and got is None
        worst_abs = worst_scaled = 0.0 if fits else NOT_COMPARABLE
    else:
        served = tasks.get(task)
        want, have = served.compare(case.outputs, signature), served.compare(got, signature)
        if isinstance(served, Orderless):
            have = served.aligned(want, have, signature)
        for name, source in want.items():
            clear = _clear(case.outputs, about.decided_by.get(name), allowed)
            if clear is not None and source.shape == have[name].shape:
                source, have[name] = source[clear], have[name][clear]
            one_abs, one_scaled = _error(source, have[name], name, about)
            worst_abs, worst_scaled = max(worst_abs, one_abs), max(worst_scaled, one_scaled)
            if signature.outputs_are is not None and source.shape == have[name].shape:
                agreement = _top1(source, have[name], allowed)
    close = worst_scaled <= allowed.scaled or worst_abs <= allowed.small
    if signature.outputs_are is not None:
        close = worst_abs <= allowed.probability
    return ParityCheck(
        precision=precision,
        batch_size=_rows(case),
        name=case.name,
        max_abs_error=worst_abs,
        max_scaled_error=worst_scaled,
        top1_agreement=agreement,
        passed=close and agreement in (None, 1.0),
    )


def _padded(
    runner: Engine,
    compared: list[Case],
    signature: Signature,
    task: str,
    allowed: Tolerance,
    about: About,
) -> list[ParityCheck]:
    """Cases of several lengths in one batch, as serving joins them."""
    rule = Padding(signature)
    cases = [c for c in compared if c.outputs is not None and c.name.startswith(signature.pad_axis)]
    if len(cases) < 2:
        return []
    try:
        together = runner.infer(rule.join([case.inputs for case in cases]))
    except LMaaSError:
        together = {}
    checks, start = [], 0
    for case in cases:
        end = start + _rows(case)
        own = {name: array[start:end] for name, array in together.items()}
        got = rule.cut(own, rule.length(case.inputs)) if together else None
        check = _check("f32", case, got, signature, task, allowed, about)
        checks.append(msgspec.structs.replace(check, name=f"{case.name}, filled up"))
        start = end
    return checks


def _draws(
    precision: Precision,
    runner: Engine,
    case: Case,
    signature: Signature,
    random: tuple[str, ...],
) -> ParityCheck:
    """Outputs that the source draws at random are drawn anew each time, and as far apart."""
    first, second = _run(runner, case, signature), _run(runner, case, signature)
    fits = first is not None and second is not None and case.outputs is not None
    if first is not None and second is not None and case.outputs is not None:
        for name in random:
            want = case.outputs[name].astype(np.float64)
            got = first[name].astype(np.float64)
            ratio = float((np.std(got) + SAME) / (np.std(want) + SAME))
            alike = want.size < MANY or 0.5 <= ratio <= 2.0
            fits = fits and alike and not np.array_equal(first[name], second[name])
    error = 0.0 if fits else NOT_COMPARABLE
    return ParityCheck(
        precision=precision,
        batch_size=_rows(case),
        name="drawn at random",
        max_abs_error=error,
        max_scaled_error=error,
        passed=fits,
    )


def _rows(case: Case) -> int:
    first = next(iter(case.inputs.values()))
    return len(first) if first.ndim else 1


def _clear(outputs: Tensors, decider: str | None, allowed: Tolerance) -> np.ndarray | None:
    """The rows in which one column of `decider` leads by more than rounding."""
    if decider is None:
        return None
    top = np.sort(outputs[decider], axis=-1)
    leads: np.ndarray = top[..., -1] - top[..., -2] > 2 * allowed.scaled
    return leads


def _error(want: np.ndarray, got: np.ndarray, name: str, about: About) -> tuple[float, float]:
    """The largest difference, and the same by the largest output; texts and whole numbers exactly,
    but for whole numbers that stand for others, as quantised models give them.

    NaN must be where the source has it, and infinities of its sign.
    """
    if want.shape != got.shape or want.dtype != got.dtype:
        return NOT_COMPARABLE, NOT_COMPARABLE
    if name in about.random:
        return 0.0, 0.0
    rounded = about.computes_in == "int8" and want.dtype.itemsize == 1
    if want.dtype.kind != "f" and not rounded:
        if np.array_equal(want, got):
            return 0.0, 0.0
        if want.dtype.kind not in "iu":
            return NOT_COMPARABLE, NOT_COMPARABLE
        off = np.abs(want.astype(np.float64) - got.astype(np.float64))
        return max(1.0, float(off.max())), NOT_COMPARABLE
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return NOT_COMPARABLE, NOT_COMPARABLE
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(a[finite]).max(initial=0.0))
    return worst, worst / scale if scale else worst


def _top1(want: np.ndarray, got: np.ndarray, allowed: Tolerance) -> float:
    """Agreement of the best class; where the source's best leads by less than f32 can tell, any."""
    if want.ndim != 2 or want.shape[1] < 2:
        return 1.0
    top = np.sort(want, axis=1)
    clear = top[:, -1] - top[:, -2] > (0 if allowed is SERVED_IN_BF16 else 2 * allowed.probability)
    if not clear.any():
        return 1.0
    return float(np.mean(want.argmax(axis=1)[clear] == got.argmax(axis=1)[clear]))
