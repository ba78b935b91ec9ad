"""What a compressed language model loses: perplexity, greedy tokens, and what it gains.

Perplexity is exp of the mean negative log-probability of the text's tokens, in windows that do not
overlap (the first token of each is given).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime.language.stateful import MODEL, Stateful, log_softmax
from lmaas.types import Measured, Precision, Record

MAX_TOKENS: Final = 4096
"""Tokens of the text that are read; a longer text is measured on its beginning."""
MIN_TOKENS: Final = 64
WINDOW: Final = 512
PIECE: Final = 128
"""Tokens in one forward pass: the logits of a large vocabulary are large."""
PROMPTS: Final = 8
PROMPT_TOKENS: Final = 32
NEW_TOKENS: Final = 32
TIMED_TOKENS: Final = 16


class Measurement(Record, frozen=True, kw_only=True):
    """Numbers of one variant, and the greedy tokens it continued each prompt with."""

    numbers: Measured
    continued: tuple[tuple[int, ...], ...]


def tokens_of(folder: Path, text: str, context_length: int) -> np.ndarray:
    """The first `MAX_TOKENS` token ids of `text`. Raises InvalidInput for too short a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids[:MAX_TOKENS]
    least = min(MIN_TOKENS, context_length)
    if len(ids) < least:
        raise InvalidInput(
            f"The text has {len(ids)} tokens; measuring needs at least {least}.", param="text"
        )
    return np.asarray(ids, np.int64)


def measure(
    folder: Path,
    ids: np.ndarray,
    context_length: int,
    precision: Precision,
    tell: Callable[[float], None],
) -> Measurement:
    """Load the model in `folder` and measure it on `ids`; `tell` hears how much is done (0-1)."""
    began = time.perf_counter()
    model = Stateful(folder, precision)
    load_s = time.perf_counter() - began
    perplexity = _perplexity(model, ids, min(WINDOW, context_length), lambda n: tell(0.7 * n))
    length = max(1, min(PROMPT_TOKENS, context_length // 2))
    count = min(NEW_TOKENS, context_length - length)
    starts = np.linspace(0, len(ids) - length, PROMPTS).astype(int)
    prompts = np.stack([ids[start : start + length] for start in starts])
    continued = _continue(model, prompts, count)
    tell(0.9)
    speed = _tokens_per_s(model, prompts[:1], min(TIMED_TOKENS, count))
    tell(1.0)
    size = (folder / MODEL).with_suffix(".bin").stat().st_size
    return Measurement(
        numbers=Measured(size_bytes=size, perplexity=perplexity, load_s=load_s, tokens_per_s=speed),
        continued=tuple(map(tuple, continued.tolist())),
    )


def agreement(
    want: tuple[tuple[int, ...], ...], got: tuple[tuple[int, ...], ...]
) -> tuple[float, tuple[int | None, ...]]:
    """The fraction of identical tokens, and where each sequence first differs (None: nowhere)."""
    first = tuple(
        next((at for at, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), None)
        for x, y in zip(want, got, strict=True)
    )
    return float(np.mean(np.asarray(want) == np.asarray(got))), first


def _perplexity(
    model: Stateful, ids: np.ndarray, window: int, tell: Callable[[float], None]
) -> float:
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, window):
        inside = ids[start : start + window]
        model.reset()
        for at in range(0, len(inside) - 1, PIECE):
            piece = inside[at : at + PIECE]
            logits = model.feed(piece[None])[0]
            targets = inside[at + 1 : at + 1 + len(piece)]
            chosen = log_softmax(logits[: len(targets)])[np.arange(len(targets)), targets]
            total -= float(chosen.astype(np.float64).sum())
            count += len(targets)
        tell((start + len(inside)) / len(ids))
    return float(np.exp(min(total / count, 700.0)))


def _continue(model: Stateful, prompts: np.ndarray, count: int) -> np.ndarray:
    """Greedy tokens (B, count) after `prompts` (B, T)."""
    model.reset()
    given, made = prompts, []
    for _ in range(count):
        given = model.feed(given)[:, -1:].argmax(-1)
        made.append(given)
    return np.concatenate(made, axis=1)


def _tokens_per_s(model: Stateful, prompt: np.ndarray, count: int) -> float:
    model.reset()
    given = model.feed(prompt)[:, -1:].argmax(-1)
    began = time.perf_counter()
    for _ in range(count):
        given = model.feed(given)[:, -1:].argmax(-1)
    return count / (time.perf_counter() - began)
