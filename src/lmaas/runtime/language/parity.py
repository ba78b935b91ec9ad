"""Does a compiled language model give the source's log-probabilities, step by step?

Knows OpenVINO IR with its KV cache as state and stored references; no frameworks, no tokenizer.
"""

from pathlib import Path

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.language.stateful import Stateful, log_softmax
from lmaas.types import LanguageSpec, ParityCheck, ParityReport, Precision

F32_ABS = 1e-3
F32_SCALED = 1e-4
BF16_ABS = 0.5
TOLERANCE = {
    "f32_max_abs_error_of_logprobs": F32_ABS,
    "f32_max_scaled_error_of_logprobs": F32_SCALED,
    "bf16_max_abs_error_of_logprobs": BF16_ABS,
}
"""Largest difference of a natural-log probability, over the tokens that `top_tokens` takes."""
TOP = 64
"""Tokens of each position that are compared: the source's most probable ones."""


def measure(compiled: Path, sample: Path, spec: LanguageSpec) -> ParityReport:
    """Run the stored sequences in f32, and in bf16 where the CPU has it.

    The first half of a sequence goes in at once and the rest token by token, so the KV cache is
    compared too. Raises InvalidInput for files that contradict each other.
    """
    from safetensors.numpy import load_file

    references = _split(load_file(sample), spec)
    checks = []
    precisions: tuple[Precision, ...] = ("f32", "bf16") if has_bf16() else ("f32",)
    for precision in precisions:
        model = Stateful(compiled, precision)
        for ids, want in references:
            checks.append(_check(precision, want, logprobs(model, ids)))
    return ParityReport(tolerance=TOLERANCE, checks=tuple(checks))


def logprobs(model: Stateful, ids: np.ndarray) -> np.ndarray:
    """Natural-log probabilities (B, T, vocabulary) of every next token after `ids` (B, T)."""
    length = ids.shape[1]
    half = length // 2
    model.reset()
    pieces = [(0, half), *((at, at + 1) for at in range(half, length))]
    logits = [model.feed(ids[:, start:end]) for start, end in pieces if start < end]
    return log_softmax(np.concatenate(logits, axis=1))


def _split(
    tensors: dict[str, np.ndarray], spec: LanguageSpec
) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for key in sorted(tensors):
        side, size, name = key.split(".", 2)
        if (side, name) != ("in", "input_ids"):
            continue
        ids, want = tensors[key], tensors.get(f"out.{size}.logprobs")
        if want is None or want.shape != (*ids.shape, spec.vocabulary_size):
            raise InvalidInput("The package's sample has no log-probabilities for its tokens.")
        if ids.dtype != np.int64 or not ((ids >= 0) & (ids < spec.vocabulary_size)).all():
            raise InvalidInput("The package's sample has tokens outside the vocabulary.")
        pairs.append((ids, want))
    if not pairs:
        raise InvalidInput("The package's sample holds no token sequences.")
    return pairs


def _check(precision: Precision, want: np.ndarray, got: np.ndarray) -> ParityCheck:
    bound = F32_ABS if precision == "f32" else BF16_ABS
    worst, agreement = compare(want, got, bound)
    scaled = worst / max(float(np.abs(want).max()), 1e-12)
    return ParityCheck(
        precision=precision,
        batch_size=len(want),
        max_abs_error=worst,
        max_scaled_error=scaled,
        top1_agreement=agreement,
        passed=(worst <= bound or (precision == "f32" and scaled <= F32_SCALED))
        and agreement == 1.0,
    )


def compare(want: np.ndarray, got: np.ndarray, bound: float) -> tuple[float, float]:
    """The largest error over the source's `TOP` tokens of each position; agreement of the first.

    The first token must agree where the source's leads its second by more than twice `bound`.
    """
    from lmaas.runtime.parity import NOT_COMPARABLE

    if want.shape != got.shape or not np.isfinite(got).all():
        return NOT_COMPARABLE, 0.0
    top = np.argsort(want, axis=-1)[..., ::-1][..., :TOP]
    a, b = np.take_along_axis(want, top, -1), np.take_along_axis(got, top, -1)
    worst = float(np.abs(a - b).max())
    clear = a[..., 0] - a[..., 1] > 2 * bound if a.shape[-1] > 1 else np.ones(a.shape[:-1], bool)
    if not clear.any():
        return worst, 1.0
    return worst, float((got.argmax(-1) == top[..., 0])[clear].mean())
