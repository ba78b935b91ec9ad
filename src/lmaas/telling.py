"""What is to be said of a version: how it is served, and what its parity checks found."""

from lmaas import tasks
from lmaas.types import ModelVersion, ParityReport, Precision


def lines_of(version: ModelVersion) -> list[str]:
    """How a version is served and what was compared, for people, one thing a line."""
    manifest, parity = version.manifest, version.parity
    if manifest.upstream is not None:
        return [f"{version.ref}: asked at {manifest.upstream.url}."]
    if manifest.parts:
        return _lines_of_parts(version)
    engine: str = manifest.engine
    why, told = manifest.engine_reason, manifest.lineage.recipe
    if tasks.spec(manifest.task).generates:
        why = str(told.get("not_compiled", ""))
        engine = "torch" if why else "openvino-genai"
    lines = [f"{version.ref}: served by {engine}."]
    if why:
        lines.append(f"Not faster, because: {why.rstrip('.')}.")
    lines += [str(told[name]) for name in ("weights", "context") if told.get(name)]
    lines.append(_compared(parity, "f32"))
    if any(check.precision == "bf16" for check in parity.checks):
        kept = "is served in bf16 where that is faster" if parity.passed("bf16") else "stays in f32"
        lines.append(f"{_compared(parity, 'bf16')} It {kept}.")
    lines += parity.notes
    lines += [
        f"The axis {name} takes sizes from {least} to {'any' if most is None else most}."
        for name, (least, most) in manifest.signature.axes.items()
        if name != "batch"
    ]
    return lines


def _lines_of_parts(version: ModelVersion) -> list[str]:
    told = [f"{version.ref}: a pipeline of {len(version.manifest.parts)} models in one worker."]
    for part in version.manifest.parts:
        weights = f" with {part.variant} weights" if part.variant else ""
        told.append(
            f"{part.role}: {part.model} ({part.task}), served by {part.engine}{weights}. "
            f"{_compared(part.parity, 'f32')}"
        )
    return [*told, *version.parity.notes]


def checks_of(version: ModelVersion) -> list[tuple[str, ...]]:
    """A row for each check: precision, inputs, rows, errors, whether it passed."""
    return [
        (
            check.precision,
            check.name or f"batch {check.batch_size}",
            str(check.batch_size),
            f"{check.max_abs_error:.2g}",
            f"{check.max_scaled_error:.2g}",
            "yes" if check.passed else "no",
        )
        for check in version.parity.checks
    ]


def _compared(parity: ParityReport, precision: Precision) -> str:
    checks = [check for check in parity.checks if check.precision == precision]
    if not checks:
        return "Nothing was compared."
    worst_abs = max(check.max_abs_error for check in checks)
    worst_scaled = max(check.max_scaled_error for check in checks)
    return (
        f"Compared with the source in {precision} on {len(checks)} sets of inputs: largest error "
        f"{worst_abs:.2g}, {worst_scaled:.2g} of the largest output."
    )
