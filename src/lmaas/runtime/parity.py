"""Does the compiled model give the source's outputs? Measured on the package's own sample.

Knows OpenVINO IR and stored reference outputs, no frameworks: the source was run when the
package was made.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from lmaas import tasks
from lmaas.errors import ParityFailed
from lmaas.runtime import ov
from lmaas.runtime.cpu import has_bf16
from lmaas.tasks import Row
from lmaas.types import ParityCheck, ParityReport, Precision, Signature

F32_ABS = 1e-4
F32_SCALED = 1e-4
BF16_PROBABILITY = 0.02
BF16_SCALED = 0.03
NOT_COMPARABLE = sys.float_info.max
"""The error of outputs that are not both numbers or differ in shape: JSON has no infinity."""
TOLERANCE = {
    "f32_max_abs_error": F32_ABS,
    "f32_max_scaled_error": F32_SCALED,
    "bf16_max_abs_error_of_probabilities": BF16_PROBABILITY,
    "bf16_max_scaled_error": BF16_SCALED,
}


def measure(
    folder: Path, sample: Path, signature: Signature, task: str, *, bf16: bool = True
) -> ParityReport:
    """Run `folder`/model.xml on every stored batch in f32, and in bf16 where the CPU has it and
    the model bears it.
    """
    from safetensors.numpy import load_file

    references = split_sample(load_file(sample))
    core = ov.load().Core()
    precisions: tuple[Precision, ...] = ("f32", "bf16") if bf16 and has_bf16() else ("f32",)
    checks = []
    for precision in precisions:
        config = {"INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(folder / "model.xml", "CPU", config)
        for size, (inputs, outputs) in references.items():
            got = _run(compiled, inputs, signature)
            checks.append(_check(precision, size, outputs, got, signature, task))
    return ParityReport(tolerance=TOLERANCE, checks=tuple(checks))


def split_sample(tensors: Row) -> dict[int, tuple[Row, Row]]:
    """Inputs and outputs by batch size, from tensors named `in.<batch>.<name>` and `out.…`."""
    batches: dict[int, tuple[Row, Row]] = {}
    for key, array in tensors.items():
        side, size, name = key.split(".", 2)
        batches.setdefault(int(size), ({}, {}))[side == "out"][name] = array
    return dict(sorted(batches.items()))


def require(report: ParityReport) -> None:
    """Raise ParityFailed, with the numbers, unless f32 passed everywhere."""
    if not report.passed("f32"):
        failed = [c for c in report.checks if c.precision == "f32" and not c.passed]
        told = "; ".join(
            f"batch {c.batch_size}: "
            + (
                "NaN, infinity or another shape"
                if c.max_abs_error == NOT_COMPARABLE
                else f"max error {c.max_abs_error:.3g}, scaled {c.max_scaled_error:.3g}"
            )
            for c in failed
        )
        allowed = next((v for k, v in report.tolerance.items() if k.startswith("f32_max_abs")), 0.0)
        raise ParityFailed(
            f"The compiled model does not give the source's outputs ({told or 'no checks'}; "
            f"allowed {allowed:g}). Nothing was published.",
            hint="Random layers and data-dependent control flow are the usual causes: put the "
            "model in inference mode and make its outputs depend on its inputs alone.",
        )


def _run(compiled: Any, inputs: Row, signature: Signature) -> Row:
    results = compiled(inputs)
    return {spec.name: np.asarray(results[spec.name]) for spec in signature.outputs}


def _check(
    precision: Precision, size: int, want: Row, got: Row, signature: Signature, task: str
) -> ParityCheck:
    view = tasks.get(task).compare
    want, got = view(want, signature), view(got, signature)
    worst_abs = worst_scaled = 0.0
    agreement: float | None = None
    finite = True
    for name, source in want.items():
        a, b = source.astype(np.float64), got[name].astype(np.float64)
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            finite = False
            continue
        same = a == b
        difference = np.where(same | np.isnan(a), 0.0, np.abs(a - b))
        if not np.isfinite(difference).all():
            finite = False
            continue
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
        worst = float(difference.max(initial=0.0))
        worst_abs = max(worst_abs, worst)
        worst_scaled = max(worst_scaled, worst / scale if scale else worst)
        if signature.outputs_are is not None:
            agreement = _top1(a, b)
    if precision == "f32":
        passed = finite and (worst_abs <= F32_ABS or worst_scaled <= F32_SCALED)
    elif signature.outputs_are is not None:
        passed = finite and worst_abs <= BF16_PROBABILITY and agreement == 1.0
    else:
        passed = finite and worst_scaled <= BF16_SCALED
    return ParityCheck(
        precision=precision,
        batch_size=size,
        max_abs_error=min(worst_abs, NOT_COMPARABLE) if finite else NOT_COMPARABLE,
        max_scaled_error=min(worst_scaled, NOT_COMPARABLE) if finite else NOT_COMPARABLE,
        top1_agreement=agreement,
        passed=passed,
    )


def _top1(want: np.ndarray, got: np.ndarray) -> float:
    """Agreement of the best class, where the source's best leads by more than the tolerance."""
    if want.shape[1] < 2:
        return 1.0
    top = np.sort(want, axis=1)
    clear = top[:, -1] - top[:, -2] > BF16_PROBABILITY
    if not clear.any():
        return 1.0
    return float(np.mean(want.argmax(axis=1)[clear] == got.argmax(axis=1)[clear]))
