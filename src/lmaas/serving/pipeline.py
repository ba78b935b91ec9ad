"""What the worker of a pipeline needs: memory, files and the record of each of its parts. Pure."""

from typing import NamedTuple

from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.runtime.cpu import gains_from_bf16, has_bf16
from lmaas.runtime.engine import ENGINES, require_engine
from lmaas.runtime.messages import ServedPart, ServeRecord
from lmaas.serving.plan import Need, needed_bytes
from lmaas.serving.precision import choose_precision
from lmaas.types import ModelVersion, Part, Precision

FOLDER = "compiled"
"""Where a pipeline's package has the files of its parts, each in a folder of its role's name."""


class PartPrecision(NamedTuple):
    """What a part is served in, and why."""

    precision: Precision
    reason: str


def pipeline_need(version: ModelVersion, settings: Settings, limits: Limits) -> Need:
    """The sum of what the parts need, in one process.

    Raises MissingExtra for a part whose engine is not installed, ConfigError and ParityFailed where
    a setting cannot be honoured.
    """
    parts = version.manifest.parts
    engines = {part.role: require_engine(part.engine, version.ref) for part in parts}
    overhead = sum({each.name: each.memory.overhead_bytes for each in engines.values()}.values())
    served = {part.role: _part_precision(version, part, settings) for part in parts}
    precision, reason = pipeline_precision(version, settings)
    return Need(
        needed_bytes(version.compiled_bytes, overhead),
        ((version, "compiled", "model"),),
        lambda folder: ServeRecord(
            model=version.ref,
            task=version.manifest.task,
            signature=version.manifest.signature,
            folder=str(folder / "model" / FOLDER),
            precision=precision,
            reason=reason,
            max_batch_size=settings.max_batch_size,
            engine=ENGINES["pipeline"],
            limits=limits,
            parts=tuple(
                ServedPart(
                    role=part.role,
                    model=part.model,
                    task=part.task,
                    signature=part.signature,
                    folder=str(folder / "model" / FOLDER / part.role),
                    precision=served[part.role].precision,
                    engine=engines[part.role],
                )
                for part in parts
            ),
        ),
    )


def pipeline_precision(version: ModelVersion, settings: Settings) -> tuple[Precision, str]:
    """bf16 where any part is served in it; the reason tells each part's."""
    served = {p.role: _part_precision(version, p, settings) for p in version.manifest.parts}
    told = (
        f"{part.role} ({part.model}) {served[part.role].precision}: {served[part.role].reason}"
        for part in version.manifest.parts
    )
    lowest: Precision = "bf16" if any(s.precision == "bf16" for s in served.values()) else "f32"
    return lowest, "; ".join(told)


def _part_precision(version: ModelVersion, part: Part, settings: Settings) -> PartPrecision:
    engine = ENGINES[part.engine]
    if "bf16" not in engine.precisions:
        return PartPrecision("f32", f"as {engine.name} computes")
    return PartPrecision(
        *choose_precision(
            settings.precision,
            model=f"{part.role} of {version.ref}",
            has_bf16=has_bf16(),
            gains=gains_from_bf16(),
            machine="CPU",
            parity=part.parity,
            compiled_bytes=part_bytes(version, part.role),
        )
    )


def part_bytes(version: ModelVersion, role: str) -> int:
    """Size of the files that serve a part, in bytes."""
    top = f"{FOLDER}/{role}/"
    return sum(file.size_bytes for file in version.files if file.path.startswith(top))
