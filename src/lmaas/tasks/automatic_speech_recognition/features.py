"""Sound as a model hears it: samples at mean 0 and variance 1, or log-mel spectrograms.

Source: Radford et al. 2022, section 2.2, as transformers' `WhisperFeatureExtractor` computes it
(Slaney's mel scale, periodic Hann window, reflected ends); wav2vec 2.0 for waveforms.
"""

import functools
from typing import Final

import numpy as np

from lmaas.types import AudioSpec

BLOCK: Final = 2048
"""Frames that are transformed at once, so that a long sound takes little memory."""
LEAST_POWER: Final = 1e-10
WHISPER_RANGE: Final = 8.0
"""Decades below the loudest value at which Whisper's features end."""
QUIETER: Final = float(np.log(1e5))
"""Frames this far (50 dB) below the loudest one are pauses."""
LOWEST: Final = -4.0
"""Deviations below the mean at which standard features end: in digital silence they would be far
below all that is learned."""
EPSILON: Final = 1e-5
"""Added to a standard deviation, so that silence stays finite."""


def waveform(sound: np.ndarray, spec: AudioSpec) -> np.ndarray:
    """Samples (T,) float32 as the model takes them, normalized where it asks for it."""
    sound = sound.astype(np.float32, copy=False)
    if not spec.normalize:
        return sound
    mean = sound.mean(dtype=np.float64)
    variance = np.square(sound - np.float32(mean), dtype=np.float64).mean()
    normal: np.ndarray = ((sound - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)
    return normal


def frames_of(samples: int, spec: AudioSpec) -> int:
    """How many frames `log_mel` makes of so many samples."""
    return max(1, samples // spec.hop)


def log_mel(sound: np.ndarray, spec: AudioSpec, samples: int | None = None) -> np.ndarray:
    """Samples (T,) as (mel_bins, frames) float32, a frame each `spec.hop` samples.

    `samples` is the length to which silence is added first (Whisper's windows are of 30 s).
    With the scale "standard", each bin has mean 0 and variance 1 over the frames in which there is
    sound, however long the pauses between them are.
    """
    sound = sound.astype(np.float32, copy=False)
    least = max(samples or 0, spec.hop, spec.window // 2 + 1)
    if len(sound) < least:
        sound = np.pad(sound, (0, least - len(sound)))
    power = _mel_power(sound, spec)
    if spec.scale == "whisper":
        values: np.ndarray = np.log10(power, out=power)
        np.maximum(values, values.max() - np.float32(WHISPER_RANGE), out=values)
        values += 4
        values /= 4
        return values
    values = np.log(power, out=power)
    level = values.mean(axis=0)
    heard = values[:, level > level.max() - QUIETER]
    values -= heard.mean(axis=1, keepdims=True)
    values /= heard.std(axis=1, keepdims=True) + np.float32(EPSILON)
    np.maximum(values, np.float32(LOWEST), out=values)
    return values


def _mel_power(sound: np.ndarray, spec: AudioSpec) -> np.ndarray:
    """(mel_bins, frames): the power in each band, at least LEAST_POWER."""
    half = spec.window // 2
    padded = np.pad(sound, half, mode="reflect")
    frames = frames_of(len(sound), spec)
    views = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop][:frames]
    hann = _hann(spec.window)
    filters = mel_filters(spec.sample_rate, spec.window, spec.mel_bins)
    power = np.empty((spec.mel_bins, frames), np.float32)
    for start in range(0, frames, BLOCK):
        spectrum = np.fft.rfft(views[start : start + BLOCK] * hann, axis=1)
        energy = np.square(spectrum.real) + np.square(spectrum.imag)
        power[:, start : start + BLOCK] = filters @ energy.astype(np.float32, copy=False).T
    return np.maximum(power, np.float32(LEAST_POWER), out=power)


@functools.cache
def _hann(window: int) -> np.ndarray:
    values: np.ndarray = np.hanning(window + 1)[:-1].astype(np.float32)
    return values


@functools.lru_cache(maxsize=16)
def mel_filters(sample_rate: int, window: int, bins: int) -> np.ndarray:
    """(bins, window // 2 + 1): triangles of equal area, evenly spaced on Slaney's mel scale."""
    top = float(_mel(np.asarray(sample_rate / 2)))
    edges = _hertz(np.linspace(0, top, bins + 2))
    at = np.linspace(0, sample_rate / 2, window // 2 + 1)
    width = np.diff(edges)
    slopes = edges[:, None] - at[None, :]
    rising, falling = -slopes[:-2] / width[:-1, None], slopes[2:] / width[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    scaled: np.ndarray = triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
    return scaled.astype(np.float32)


def _mel(hertz: np.ndarray) -> np.ndarray:
    """Slaney's mel: linear to 1000 Hz, then logarithmic."""
    logarithmic = 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, 3 * hertz / 200, logarithmic)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))
