"""Sound that was spoken, as bytes; and at another speed."""

import io

import numpy as np
import pytest

from lmaas.codecs import audio
from lmaas.codecs.audio_encoding import PCM_RATE, make_encoder
from lmaas.codecs.limits import Limits
from lmaas.codecs.time_stretch import stretch
from lmaas.speech_types import SpeechFormat

RATE = 16_000


def sweep(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone that becomes higher and louder, so that what is missing is heard."""
    at = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 + 100 * at) * at) * (0.2 + 0.2 * at / seconds)
    return np.asarray(tone, np.float32)


def pitch(sound: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
    return float(np.argmax(spectrum) * rate / sound.size)


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav"])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_what_is_encoded_in_pieces_is_the_sound(kind: SpeechFormat, rate: int) -> None:
    sound = sweep(2.0, rate)
    encoder = make_encoder(kind, rate)
    pieces = [encoder.add(part) for part in np.array_split(sound, 7)]
    data = b"".join((*pieces, encoder.end()))
    assert bool(b"".join(pieces)) == (kind not in ("wav", "flac"))
    heard = audio.decode(data, rate, Limits())
    # Lossy encoders begin with some silence of their own.
    assert abs(heard.size - sound.size) < 0.12 * rate
    lag = int(np.argmax(np.correlate(heard[: rate // 2], sound[: rate // 4], "valid")))
    size = min(sound.size, heard.size - lag)
    likeness = np.corrcoef(sound[:size], heard[lag : lag + size])[0, 1]
    assert likeness > (0.9999 if kind in ("wav", "flac") else 0.98)


def test_raw_samples_have_the_rate_that_clients_expect() -> None:
    encoder = make_encoder("pcm", RATE)
    at = np.arange(RATE) / RATE
    sound = np.asarray(0.5 * np.sin(2 * np.pi * 440 * at), np.float32)
    data = encoder.add(sound[:5000]) + encoder.add(sound[5000:]) + encoder.end()
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32767
    assert samples.size == PCM_RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(PCM_RATE) / PCM_RATE)
    assert np.abs(samples - expected)[200:-200].max() < 1e-3


def test_a_wav_file_tells_its_length() -> None:
    import wave

    encoder = make_encoder("wav", RATE)
    assert encoder.add(sweep(0.5)) == b""
    with wave.open(io.BytesIO(encoder.end())) as file:
        assert (file.getframerate(), file.getnframes()) == (RATE, RATE // 2)


def test_sound_that_is_too_loud_is_clipped() -> None:
    encoder = make_encoder("wav", RATE)
    encoder.add(np.array([2.0, -2.0, 0.0], np.float32))
    samples = np.frombuffer(encoder.end()[44:], "<i2")
    assert samples.tolist() == [32767, -32767, 0]


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.25, 2.0, 4.0])
def test_another_speed_has_the_same_pitch(speed: float) -> None:
    at = np.arange(3 * RATE) / RATE
    sound = np.asarray(0.3 * np.sin(2 * np.pi * 220 * at), np.float32)
    fast = stretch(sound, speed, RATE)
    assert abs(fast.size * speed / sound.size - 1) < 0.03
    middle = fast[fast.size // 4 : -fast.size // 4]
    assert abs(pitch(middle) - 220) < 2.5
    # No beating where windows meet: what is heard is as loud all the time.
    loud = np.sqrt((middle[: middle.size // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1))
    assert loud.min() > 0.8 * 0.3 / np.sqrt(2)


def test_speed_1_and_short_sounds_are_left_alone() -> None:
    sound = sweep(1.0)
    assert stretch(sound, 1.0, RATE) is sound
    assert stretch(sound[:100], 2.0, RATE).size == 100
    assert stretch(np.empty(0, np.float32), 2.0, RATE).size == 0
    for size in (961, 1000, 2000, 5000):
        assert np.isfinite(stretch(sound[:size], 4.0, RATE)).all()
        assert np.isfinite(stretch(sound[:size], 0.25, RATE)).all()
