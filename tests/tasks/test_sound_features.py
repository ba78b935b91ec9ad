"""Spectrograms are those of transformers; what is normalized has mean 0 and variance 1."""

import numpy as np
import pytest

from lmaas.tasks.automatic_speech_recognition.features import frames_of, log_mel, waveform
from lmaas.types import AudioSpec


def sounds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "noise": random.standard_normal(7 * 16_000).astype(np.float32) * np.float32(0.1),
        "a tone of 30 s": np.sin(np.arange(480_000) * 0.1).astype(np.float32),
        "silence": np.zeros(1000, np.float32),
        "one sample": np.full(1, 0.5, np.float32),
        "31 s": random.standard_normal(31 * 16_000).astype(np.float32),
    }


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("name", sounds())
def test_whispers_features_are_those_of_transformers(name: str, bins: int) -> None:
    from transformers import WhisperFeatureExtractor

    sound = sounds()[name]
    extractor = WhisperFeatureExtractor(feature_size=bins)
    wanted = extractor(sound, sampling_rate=16_000, return_tensors="np").input_features[0]
    spec = AudioSpec(features="log-mel", scale="whisper", mel_bins=bins)
    found = log_mel(sound[:480_000], spec, 480_000)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("name", ["noise", "one sample", "silence"])
def test_standard_features_have_mean_0_and_variance_1(name: str) -> None:
    spec = AudioSpec(features="log-mel", mel_bins=40)
    found = log_mel(sounds()[name], spec)
    assert found.shape == (40, frames_of(len(sounds()[name]), spec))
    assert np.isfinite(found).all()
    assert np.abs(found.mean(axis=1)).max() < 5e-3
    if name == "noise":
        assert np.abs(found.std(axis=1) - 1).max() < 1e-2


@pytest.mark.parametrize("name", ["noise", "one sample", "silence"])
def test_waveforms_are_those_of_transformers(name: str) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    sound = sounds()[name]
    wanted = Wav2Vec2FeatureExtractor()(sound, sampling_rate=16_000).input_values[0]
    assert np.abs(waveform(sound, AudioSpec(normalize=True)) - wanted).max() < 1e-5
    assert np.array_equal(waveform(sound, AudioSpec()), sound)


def test_pauses_do_not_change_what_is_heard() -> None:
    spec = AudioSpec(features="log-mel", mel_bins=40)
    sound = sounds()["noise"]
    alone = log_mel(sound, spec)
    silence = np.zeros(8 * len(sound), np.float32)
    among = log_mel(np.concatenate([sound, silence]), spec)
    frames = alone.shape[1]
    assert np.abs(among[:, : frames - 3] - alone[:, : frames - 3]).mean() < 0.2
    assert among[:, frames + 3 :].max() <= -4
