"""Sound files to samples: mono float32 at the rate that a model asks for, block by block.

What a file is, its bytes tell. Length, channels and sample rate are bounded before samples are
decoded, and the length again while they are, since a file can lie about it. Nothing is opened but
the bytes that are given: no playlist, no address, no other file.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from lmaas.codecs import audio_container, audio_file, media
from lmaas.codecs.audio_source import Source
from lmaas.codecs.audio_whole import check_whole
from lmaas.codecs.limits import Limits
from lmaas.codecs.resampling import Resampler
from lmaas.errors import InvalidInput, PayloadTooLarge

READS: Final = "wav, flac, ogg (opus, vorbis), mp3, aac, aiff, m4a, mp4 and webm"
"""The formats that are read, for people."""
MOST_CHANNELS: Final = 16
RATES: Final = (1_000, 384_000)
"""The least and the most samples a second."""
LOUDEST: Final = 16.0
"""Files of floating-point numbers can hold any; 1 is full scale."""
COSTLY_RATE: Final = 96_000
"""`max_audio_s` is the length of sound at so many samples a second, of all channels together; sound
of more may be shorter."""


def decode(data: bytes, sample_rate: int, limits: Limits) -> np.ndarray:
    """The whole sound (samples,), in -1 to 1. Raises InvalidInput, PayloadTooLarge."""
    return np.concatenate(list(blocks(data, sample_rate, limits)))


def blocks(data: bytes, sample_rate: int, limits: Limits) -> Iterator[np.ndarray]:
    """The sound in blocks of a few seconds, none empty; at least one.

    Raises InvalidInput, PayloadTooLarge: for what the file's head tells, before the first block.
    """
    source = open_source(data, limits)
    most = _most_frames(source, limits)
    resampler = Resampler(source.sample_rate, sample_rate)
    frames = 0
    for block in source.blocks():
        frames += len(block)
        if frames > most:
            raise _too_long(limits, "it has more samples than its head says")
        _check_numbers(block)
        made = resampler.feed(block)
        if len(made):
            yield made
    if not frames:
        raise InvalidInput(
            "The sound has no samples.", hint="The file is empty, or cut off after its head."
        )
    made = resampler.end()
    if len(made):
        yield made


def open_source(data: bytes, limits: Limits) -> Source:
    """The file with its sample rate, its channels and, where its head tells it, its length.

    No sample is decoded. Raises InvalidInput, PayloadTooLarge.
    """
    if len(data) > limits.max_media_bytes:
        raise PayloadTooLarge(
            f"The sound has {len(data)} bytes; at most {limits.max_media_bytes} are decoded."
        )
    kind = media.media_type_of(data)
    if kind is not None:
        check_whole(data, kind)
    if kind in audio_file.KINDS:
        source = audio_file.open_file(data)
    elif kind in audio_container.KINDS:
        source = audio_container.open_container(data, kind, limits.max_audio_s)
    else:
        raise InvalidInput(
            f"The input is not a sound that can be read: received {media.told(data)}.",
            hint=f"Send a file of one of these formats: {READS}.",
        )
    _check_head(source)
    if source.frames is not None and source.frames > _most_frames(source, limits):
        raise _too_long(limits, f"it has {source.frames / source.sample_rate:.0f} s")
    return source


def seconds(data: bytes, limits: Limits) -> float:
    """How long the sound is: as its head tells, or where that does not, all of it is decoded.

    Raises as `open_source` and `blocks` do.
    """
    source = open_source(data, limits)
    rate = source.sample_rate
    if source.frames is not None:
        return source.frames / rate
    return sum(len(block) for block in blocks(data, rate, limits)) / rate


def is_audio(data: bytes) -> bool:
    """Whether the bytes begin as a sound of a format that is read; nothing is decoded."""
    kind = media.media_type_of(data)
    return kind in audio_file.KINDS or kind in audio_container.KINDS


def _most_frames(source: Source, limits: Limits) -> int:
    costs = source.sample_rate * source.channels
    share = min(1.0, COSTLY_RATE / costs)
    return int(limits.max_audio_s * share * source.sample_rate)


def _check_head(source: Source) -> None:
    least, most = RATES
    if not least <= source.sample_rate <= most:
        raise InvalidInput(
            f"The sound has {source.sample_rate} samples a second; {least} to {most} are read."
        )
    if not 1 <= source.channels <= MOST_CHANNELS:
        raise InvalidInput(
            f"The sound has {source.channels} channels; 1 to {MOST_CHANNELS} are read."
        )


def _check_numbers(block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise InvalidInput("The sound holds samples that are NaN or infinite.")
    loudest = float(np.abs(block).max(initial=0))
    if loudest > LOUDEST:
        raise InvalidInput(
            f"The sound holds samples up to {loudest:g}; floating-point samples lie in -1 to 1.",
            hint="Divide whole numbers of 16 bits by 32768, or save them as 16-bit samples.",
        )


def _too_long(limits: Limits, told: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The sound is too long: {told}; at most {limits.max_audio_s:g} s are decoded (less above "
        f"{COSTLY_RATE} samples a second in all channels).",
        hint="Cut it into parts, or raise the setting max_audio_s.",
    )
