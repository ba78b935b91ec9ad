"""CTC models: a sound in, letters with times out. Knows arrays; what asks for them is `serving`.

Silence is told by its loudness: where nothing is louder than -70 dB of full scale, no letters are
heard, whatever the model says.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from lmaas.codecs import audio
from lmaas.codecs.limits import Limits
from lmaas.errors import LMaaSError, PayloadTooLarge
from lmaas.tasks.automatic_speech_recognition import features, lattice, overlapping
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet
from lmaas.tasks.automatic_speech_recognition.transcript import compression_ratio
from lmaas.tasks.base import Batch, Tensors
from lmaas.transcription_types import Segment, SpokenToken, Transcript, Word
from lmaas.types import AudioSpec, Signature

MASK: Final = "mask"
"""The input that hides what is filled up: 1 for what counts, 0 for what does not."""
QUIET: Final = 10 ** (-70 / 20)
AFTER_S: Final = 0.3
BEFORE_S: Final = 2.0
"""Letters so long after sound, or before it, are heard: models write them late, and the first ones
of a sentence often at the beginning of the pause before it."""
WINDOWS_AT_ONCE: Final = 4
"""So many windows of one sound run together; between them others have their turn."""
EVEN_FRAMES: Final = 32
"""Lengths are filled up to a multiple of this, or of an eighth of their power of two."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request's sound is known before the model runs.

    `begins` are its windows' first steps, `steps` how many there are in all, of `step_s` seconds;
    `loud` (steps,) says where there is sound.
    """

    duration: float
    begins: tuple[int, ...] = ()
    steps: int = 0
    step_s: float = 0.0
    loud: np.ndarray | None = None


def read(data: bytes, alphabet: Alphabet, signature: Signature, limits: Limits) -> Batch:
    """A sound file as windows of the model's input; none where it is silent.

    Raises InvalidInput, PayloadTooLarge.
    """
    spec = signature.audio
    assert spec is not None
    grid = alphabet.stride * _per_frame(spec)
    window = int((spec.most_s or overlapping.WINDOW_S) * spec.sample_rate) // grid * grid
    overlap = int(window * overlapping.OVERLAP_S / overlapping.WINDOW_S)
    rows: list[np.ndarray] = []
    begins: list[int] = []
    loud = np.zeros(0, bool)
    total = 0
    sound = audio.blocks(data, spec.sample_rate, limits)
    for each in overlapping.windows(sound, window, overlap, grid):
        loud = np.concatenate([loud[: each.start // grid], _loud(each.samples, grid)])
        total = each.start + len(each.samples)
        samples = each.samples
        if rows and len(samples) < window:
            samples = np.pad(samples, (0, window - len(samples)))
        rows.append(_features(samples, alphabet, spec))
        begins.append(each.start // grid)
        if rows[-1].size > limits.max_elements:
            raise PayloadTooLarge(
                f"The sound has {rows[-1].size} values; at most {limits.max_elements} are read."
            )
    heard = Heard(
        duration=total / spec.sample_rate,
        begins=tuple(begins),
        steps=begins[-1] + alphabet.steps(len(rows[-1])),
        step_s=grid / spec.sample_rate,
        loud=loud,
    )
    if not loud.any():
        return Batch(arrays={}, size=1, single=True, parameters={"heard": heard})
    parts = list(_parts(rows, alphabet, signature))
    whole = parts[0] if len(parts) == 1 else Batch(arrays={}, size=len(rows), parts=tuple(parts))
    whole.single = len(rows) == 1
    whole.parameters = {"heard": heard}
    return whole


def _per_frame(spec: AudioSpec) -> int:
    return 1 if spec.features == "waveform" else spec.hop


def _features(samples: np.ndarray, alphabet: Alphabet, spec: AudioSpec) -> np.ndarray:
    """One window as the model reads it, time first; not shorter than models take."""
    if spec.features == "log-mel":
        values = features.log_mel(samples, spec).T
    else:
        values = features.waveform(samples, spec)
    missing = max(0, alphabet.least - len(values))
    widths = [(0, missing), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(values, widths) if missing else values


def _loud(samples: np.ndarray, grid: int) -> np.ndarray:
    """Which steps of `grid` samples have sound in them."""
    padded = np.pad(samples, (0, -len(samples) % grid)).reshape(-1, grid)
    level: np.ndarray = np.sqrt(np.square(padded).mean(axis=1))
    return level > QUIET


def even(size: int) -> int:
    """The length to which sounds of `size` frames are filled up, so that they run together."""
    step = max(EVEN_FRAMES, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _parts(rows: list[np.ndarray], alphabet: Alphabet, signature: Signature) -> Iterator[Batch]:
    sizes = [len(row) for row in rows]
    length = max(sizes)
    if alphabet.pads and len(rows) == 1:
        length = even(length)
    for start in range(0, len(rows), WINDOWS_AT_ONCE):
        some = rows[start : start + WINDOWS_AT_ONCE]
        values = np.zeros((len(some), length, *some[0].shape[1:]), np.float32)
        mask = np.zeros((len(some), length), np.int64)
        for place, row in enumerate(some):
            values[place, : len(row)] = row
            mask[place, : len(row)] = 1
        arrays: Tensors = {}
        for spec in signature.inputs:
            arrays[spec.name] = mask if spec.name == MASK else values
        yield Batch(arrays=arrays, size=len(some), row_cost=max(1, length // 256))


def scores_of(outputs: Tensors, heard: Heard, signature: Signature) -> np.ndarray:
    """(T, V) log probabilities of the whole sound. Raises LMaaSError for NaN."""
    rows = outputs[signature.outputs[0].name]
    if not np.isfinite(rows).all():
        raise LMaaSError("The model's outputs hold NaN or infinity for this sound.")
    return lattice.log_probabilities(overlapping.stitched(list(rows), heard.begins, heard.steps))


def letters_of(scores: np.ndarray, heard: Heard, alphabet: Alphabet) -> list[lattice.Letter]:
    """The letters that are heard where there is sound.

    One that is written in a pause is of the sound that is nearest, and that it begins with.
    """
    assert heard.loud is not None
    steps = np.flatnonzero(heard.loud)
    after, before = AFTER_S / heard.step_s, BEFORE_S / heard.step_s
    found = []
    for each in lattice.letters(scores, alphabet):
        place = int(np.searchsorted(steps, each.start))
        since = each.start - int(steps[place - 1]) if place else np.inf
        ahead = int(steps[place]) - each.start if place < len(steps) else np.inf
        if ahead < each.end - each.start or (since <= after and since <= ahead):
            found.append(each)
        elif ahead <= before:
            onset = each.start + int(ahead)
            found.append(msgspec.structs.replace(each, start=onset, end=onset + 1))
    return found


def transcript(
    outputs: Tensors,
    heard: Heard,
    alphabet: Alphabet,
    signature: Signature,
    *,
    words: bool,
    segments: bool,
    logprobs: bool = False,
) -> Transcript:
    """What is said, with what was asked for. Probabilities are the model's own.

    A segment's `avg_logprob` is the logarithm of its text's probability by the number of its
    letters, its `no_speech_prob` the probability of no letters at all (of blanks alone); a word's
    `probability` is the mean of its letters'.
    """
    if not outputs:
        empty = ()
        return Transcript(
            text="",
            duration=heard.duration,
            words=empty if words else None,
            segments=empty if segments else None,
            logprobs=empty if logprobs else None,
        )
    scores = scores_of(outputs, heard, signature)
    found = letters_of(scores, heard, alphabet)
    spoken = lattice.words(found, alphabet, heard.step_s)
    return Transcript(
        text=lattice.join(spoken, alphabet),
        duration=heard.duration,
        words=tuple(_word(each, heard, alphabet) for each in spoken) if words else None,
        segments=tuple(
            _segment(run, scores, heard, alphabet) for run in lattice.segments(spoken, heard.step_s)
        )
        if segments
        else None,
        logprobs=_tokens(found, alphabet) if logprobs else None,
    )


def _word(each: lattice.Spoken, heard: Heard, alphabet: Alphabet) -> Word:
    return Word(
        word=lattice.text_of(each.letters, alphabet),
        start=_time(each.start, heard),
        end=_time(each.end, heard),
        probability=float(np.mean([letter.probability for letter in each.letters])),
    )


def _segment(
    run: list[lattice.Spoken], scores: np.ndarray, heard: Heard, alphabet: Alphabet
) -> Segment:
    tokens: list[int] = []
    for index, each in enumerate(run):
        if index and alphabet.delimiter is not None:
            tokens.append(alphabet.delimiter)
        tokens += [letter.token for letter in each.letters]
    first, after = run[0].start, run[-1].end
    told = lattice.log_probability(scores[first:after], tokens, alphabet.blank)
    text = lattice.join(run, alphabet)
    return Segment(
        start=_time(first, heard),
        end=_time(after, heard),
        text=text,
        tokens=tuple(tokens),
        temperature=0.0,
        avg_logprob=told / len(tokens),
        compression_ratio=compression_ratio(text),
        no_speech_prob=float(np.exp(scores[first:after, alphabet.blank].sum(dtype=np.float64))),
    )


def _tokens(found: list[lattice.Letter], alphabet: Alphabet) -> tuple[SpokenToken, ...]:
    told = []
    for each in found:
        if each.token in alphabet.silent:
            continue
        text = " " if each.token == alphabet.delimiter else alphabet.tokens[each.token]
        logprob = min(0.0, float(np.log(max(each.probability, 1e-38))))
        told.append(SpokenToken(token=text, raw=text.encode(), logprob=logprob))
    return tuple(told)


def _time(step: int, heard: Heard) -> float:
    return round(min(step * heard.step_s, heard.duration), 3)
