"""What a window's tokens say: segments with times, and how sure the model was of them.

Times of tokens are in steps of 0.02 s from the window's beginning. Knows no engine.
"""

import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WhisperTokens
from lmaas.transcription_types import Segment, Word

Timed = TypeVar("Timed", Segment, Word)

STEP_S: Final = 0.02
LIKELIEST_LOSS: Final = -1.0
"""Below this mean log probability a text is not believed (Radford et al. 2022, section 4.5)."""
MOST_COMPRESSION: Final = 2.4
"""A text that zlib makes so much shorter repeats itself."""
SILENCE: Final = 0.6
"""From this probability of no speech on, a text that is not believed is none."""


class Attempt(NamedTuple):
    """What was written for a window at one temperature; `scores` has one for each token.

    `logprob` is the sum with the stop token's.
    """

    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    logprob: float
    temperature: float

    @property
    def avg_logprob(self) -> float:
        """The mean over its tokens and the stop token."""
        return self.logprob / (len(self.tokens) + 1)


class Piece(NamedTuple):
    """A stretch of a window: tokens from `first` to before `after`, and its times in steps.

    `closed`: the model wrote where it ends.
    """

    first: int
    after: int
    start: int
    end: int
    closed: bool


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes a text; 0 for none."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def pieces(tokens: Sequence[int], known: WhisperTokens, steps: int) -> list[Piece]:
    """The stretches between time tokens. The window has `steps` of 0.02 s."""
    found: list[Piece] = []
    first, start = 0, 0
    for place, token in enumerate(tokens):
        if token < known.times:
            continue
        step = min(token - known.times, steps)
        if any(known.is_text(each) for each in tokens[first:place]):
            found.append(Piece(first, place + 1, start, max(step, start), closed=True))
            first = place + 1
        start = step
    if any(known.is_text(each) for each in tokens[first:]):
        found.append(Piece(first, len(tokens), start, steps, closed=False))
    return found


def heard_until(found: Sequence[Piece]) -> int | None:
    """Up to which step the model wrote down what it heard; None where it did not say."""
    return found[-1].end if found and found[-1].closed else None


def best_of(attempts: Sequence[Attempt], known: WhisperTokens) -> Attempt:
    """Of attempts that all looked wrong, the one that looks least so."""

    def badness(attempt: Attempt) -> tuple[float, float]:
        ratio = compression_ratio(known.text(attempt.tokens))
        return max(ratio, MOST_COMPRESSION), -attempt.avg_logprob

    return min(attempts, key=badness)


def segment_of(
    piece: Piece, attempt: Attempt, known: WhisperTokens, offset_s: float, no_speech: float | None
) -> Segment:
    """A stretch as a segment whose times count from the beginning of the sound."""
    tokens = attempt.tokens[piece.first : piece.after]
    scores = attempt.scores[piece.first : piece.after]
    text = known.text(tokens)
    return Segment(
        start=round(offset_s + piece.start * STEP_S, 3),
        end=round(offset_s + piece.end * STEP_S, 3),
        text=text,
        tokens=tokens,
        temperature=attempt.temperature,
        avg_logprob=sum(scores) / len(scores) if scores else None,
        compression_ratio=compression_ratio(text),
        no_speech_prob=no_speech,
    )


def in_order(found: Sequence[Timed], duration_s: float) -> list[Timed]:
    """The same with times that never go back and end with the sound."""
    last, told = 0.0, []
    for each in found:
        start = min(max(each.start, last), duration_s)
        end = min(max(each.end, start), duration_s)
        told.append(msgspec.structs.replace(each, start=round(start, 3), end=round(end, 3)))
        last = start
    return told
