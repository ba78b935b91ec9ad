"""Sound to bytes: raw samples and WAV by ourselves, MP3, Opus, AAC and FLAC by FFmpeg (`av`).

An encoder takes sound piece by piece. What it gives back at once can be sent at once; WAV and FLAC
say in their head how long they are, so that all of it comes at the end.
"""

import io
from typing import Any, Final, Protocol, cast

import numpy as np

from lmaas.codecs import pcm
from lmaas.codecs.resampling import Resampler
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.speech_types import SpeechFormat

PCM_RATE: Final = 24_000
"""Raw samples have no head that says their rate: it is this one, as in OpenAI's API."""
CODECS: Final[dict[SpeechFormat, tuple[str, str, int]]] = {
    "mp3": ("libmp3lame", "mp3", 64_000),
    "opus": ("libopus", "ogg", 32_000),
    "aac": ("aac", "adts", 64_000),
    "flac": ("flac", "flac", 0),
}
"""The encoder and the container of each format, and bits a second (0: lossless)."""
RATES: Final[dict[SpeechFormat, tuple[int, ...]]] = {
    "mp3": (16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "opus": (16_000, 24_000, 48_000),
    "aac": (16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
"""Rates that are encoded; others become the next higher one."""


class SpeechEncoder(Protocol):
    """Encodes one answer."""

    def add(self, sound: np.ndarray) -> bytes:
        """Bytes that (T,) more float32 samples make ready; there may be none yet."""

    def end(self) -> bytes:
        """All that is left."""


def make_encoder(kind: SpeechFormat, rate: int) -> SpeechEncoder:
    """An encoder for sound of `rate` samples a second. Raises MissingExtra, InvalidInput."""
    if kind == "wav":
        return _Wav(rate)
    if kind == "pcm":
        return _Raw(rate)
    try:
        import av
    except ImportError:
        raise MissingExtra(
            f"{kind} needs FFmpeg's encoders, which are not installed here; wav and pcm need none.",
            hint="pip install 'lmaas[audio]'",
        ) from None
    name = CODECS[kind][0]
    if name not in av.codecs_available:
        known = [each for each, (codec, _, _) in CODECS.items() if codec in av.codecs_available]
        raise InvalidInput(
            f"This machine has no encoder for {kind}.",
            hint=f"Formats are {', '.join((*known, 'wav', 'pcm'))}.",
            param="response_format",
        )
    return _FFmpeg(kind, rate)


def to_int16(sound: np.ndarray) -> np.ndarray:
    """(T,) float32 samples from -1 to 1 as int16; louder ones are clipped."""
    samples: np.ndarray = np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)
    return samples


class _Wav:
    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._parts: list[np.ndarray] = []

    def add(self, sound: np.ndarray) -> bytes:
        self._parts.append(to_int16(sound))
        return b""

    def end(self) -> bytes:
        whole = np.concatenate(self._parts) if self._parts else np.empty(0, np.int16)
        return pcm.wav(whole, self._rate)


class _Raw:
    def __init__(self, rate: int) -> None:
        self._resampler = Resampler(rate, PCM_RATE)

    def add(self, sound: np.ndarray) -> bytes:
        return to_int16(self._resampler.feed(sound)).astype("<i2").tobytes()

    def end(self) -> bytes:
        return to_int16(self._resampler.end()).astype("<i2").tobytes()


class _Sink(io.RawIOBase):
    """A file that is only written, from its beginning to its end, and read in between."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _FFmpeg:
    def __init__(self, kind: SpeechFormat, rate: int) -> None:
        import av

        codec, container, bits_per_s = CODECS[kind]
        rates = RATES.get(kind, (rate,))
        self._to = next((each for each in rates if each >= rate), rates[-1])
        self._resampler = Resampler(rate, self._to)
        # FLAC's head is completed at the end, for which the file must be seekable.
        self._whole = kind == "flac"
        self._sink: Any = io.BytesIO() if self._whole else _Sink()
        self._file = av.open(self._sink, "w", format=container)
        self._stream = cast(Any, self._file.add_stream(codec, rate=self._to, layout="mono"))
        if bits_per_s:
            self._stream.bit_rate = bits_per_s
        self._at = 0

    def add(self, sound: np.ndarray) -> bytes:
        self._encode(to_int16(self._resampler.feed(sound))[None, :])
        return b"" if self._whole else bytes(self._sink.take())

    def end(self) -> bytes:
        self._encode(to_int16(self._resampler.end())[None, :])
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return bytes(self._sink.getvalue() if self._whole else self._sink.take())

    def _encode(self, samples: np.ndarray) -> None:
        import av

        if not samples.size:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", "mono")
        frame.sample_rate, frame.pts = self._to, self._at
        self._at += samples.size
        self._file.mux(self._stream.encode(frame))
