"""Which precision a model is served in, and why. Pure: it is told what machine and parity allow."""

from typing import Final, Literal

from lmaas.errors import ConfigError, ParityFailed
from lmaas.types import ParityReport, Precision

FORCED_SCALED: Final = 0.03
"""How far bf16 may move an output, by the largest, where precision=bf16 asks for it."""
BF16_WORTH_BYTES: Final = 4 << 20
"""Smaller models gain nothing from bf16: their time is call overhead (docs/log.md)."""


def choose_precision(
    setting: Literal["auto", "f32", "bf16"],
    *,
    model: str,
    has_bf16: bool,
    gains: bool,
    parity: ParityReport,
    compiled_bytes: int,
    machine: Literal["CPU", "GPU"] = "CPU",
) -> tuple[Precision, str]:
    """The precision and the reason for it; `gains` tells whether bf16 is faster than f32 there.

    Raises when a forced bf16 cannot be honoured.
    """
    if setting == "f32":
        return "f32", "set by precision=f32"
    allowed = parity.passed("bf16")
    if setting == "bf16":
        # Who asks for it accepts more than what is chosen unasked.
        error = parity.max_scaled_error("bf16")
        allowed = allowed or 0 < error <= FORCED_SCALED
        if not has_bf16:
            raise ConfigError(
                f"precision=bf16 is set, but this {machine} has no bf16 instructions.",
                hint="Set precision to auto or f32.",
                param="precision",
            )
        if not allowed:
            raise ParityFailed(
                f"precision=bf16 is set, but {model} does not keep its outputs in bf16 within "
                "the tolerance.",
                hint="Set precision to auto or f32.",
            )
        return "bf16", f"set by precision=bf16; outputs move by up to {error:.2g} of the largest"
    if not has_bf16:
        return "f32", f"the {machine} has no bf16"
    if not gains:
        return "f32", f"the {machine} is faster in it than in its bf16"
    if not allowed:
        return "f32", "bf16 did not pass parity"
    if compiled_bytes < BF16_WORTH_BYTES:
        return "f32", f"smaller than {BF16_WORTH_BYTES >> 20} MiB: bf16 gains nothing"
    return "bf16", f"the {machine} has bf16 and parity holds"
