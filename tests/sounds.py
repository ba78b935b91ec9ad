"""Sound files of every format that is read, made when they are asked for."""

import functools
import io
from typing import Any

import numpy as np

RATE = 16_000


def tone(seconds: float = 1.0, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    """A sine of half the full scale, float32."""
    at = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def wav(sound: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    """A wav file; `sound` is (samples,) or (samples, channels)."""
    return written(sound, rate, "WAV", subtype)


def written(sound: np.ndarray, rate: int, format_: str, subtype: str | None = None) -> bytes:
    """A file as libsndfile writes it."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=format_, subtype=subtype)
    return file.getvalue()


def contained(sound: np.ndarray, rate: int, format_: str, codec: str) -> bytes:
    """A file as FFmpeg writes it; `sound` is (samples,) or (samples, 2)."""
    import av

    layout = "mono" if sound.ndim == 1 else "stereo"
    file = io.BytesIO()
    container: Any = av.open(file, "w", format=format_)
    with container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        planes = np.ascontiguousarray(sound.reshape(len(sound), -1).T)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name, layout=layout, rate=rate, frame_size=1024
        )
        for made in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return file.getvalue()


@functools.cache
def files(seconds: float = 1.0) -> dict[str, bytes]:
    """The same tone in every format, by a name of the format."""
    low, high = tone(seconds, rate=44_100), tone(seconds, rate=48_000)
    both = np.stack([low, np.zeros_like(low)], axis=1)
    return {
        "wav": wav(low, 44_100),
        "wav float": wav(low, 44_100, "FLOAT"),
        "aiff": written(low, 44_100, "AIFF"),
        "flac": written(both, 44_100, "FLAC"),
        "vorbis": written(low, 44_100, "OGG", "VORBIS"),
        "opus": written(high, 48_000, "OGG", "OPUS"),
        "mp3": written(low, 44_100, "MP3"),
        "m4a": contained(low, 44_100, "ipod", "aac"),
        "mp4": contained(both, 44_100, "mp4", "aac"),
        "webm": contained(high, 48_000, "webm", "libopus"),
        "aac": contained(low, 44_100, "adts", "aac"),
    }
