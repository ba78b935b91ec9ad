"""Raw sound as it is streamed: 16-bit samples, and the two laws of G.711; and WAV around it.

Only what needs no decoder: each byte or pair of bytes is a sample. Files are `codecs.audio`'s.
"""

import struct
from functools import cache
from typing import Final, Literal

import numpy as np

PcmKind = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
SAMPLE_BYTES: Final[dict[PcmKind, int]] = {"audio/pcm": 2, "audio/pcmu": 1, "audio/pcma": 1}
RATES: Final[dict[PcmKind, int]] = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}
"""Samples a second of each kind, as OpenAI's Realtime API has them."""


def samples(data: bytes, kind: PcmKind) -> np.ndarray:
    """The (T,) int16 samples of whole samples in `data`."""
    if kind == "audio/pcm":
        return np.frombuffer(data, "<i2")
    return (_mu_law() if kind == "audio/pcmu" else _a_law())[np.frombuffer(data, np.uint8)]


def wav(pcm: np.ndarray, rate: int) -> bytes:
    """A WAV file (RIFF, 16-bit PCM, one channel) of (T,) int16 samples."""
    data = pcm.astype("<i2").tobytes()
    head = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"".join((head, form, struct.pack("<4sI", b"data", len(data)), data))


@cache
def _mu_law() -> np.ndarray:
    """ITU-T G.711, table 2b: the 14-bit values, at 16 bits."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    value = (((mantissa << 3) + 132) << exponent) - 132
    return np.where(code & 128, -value, value).astype(np.int16)


@cache
def _a_law() -> np.ndarray:
    """ITU-T G.711, table 1b: the 13-bit values, at 16 bits."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    low = (mantissa << 4) + 8
    value = np.where(exponent == 0, low, (low + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 128, value, -value).astype(np.int16)
