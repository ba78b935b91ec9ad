"""Rates change without a delay, without aliases, and the same in whatever blocks sound comes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from lmaas.codecs.resampling import Resampler

RATES = [1_000, 8_000, 11_025, 12_000, 22_050, 24_000, 44_100, 48_000, 96_000, 384_000]
EDGE = 1_600


def resampled(sound: np.ndarray, source: int, target: int, block: int = 50_000) -> np.ndarray:
    resampler = Resampler(source, target)
    parts = [resampler.feed(sound[at : at + block]) for at in range(0, len(sound), block)]
    return np.concatenate([*parts, resampler.end()])


def sine(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    made: np.ndarray = np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
    return made.astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_where_it_is(rate: int) -> None:
    hertz = 300 if rate > 1_000 else 100
    found = resampled(sine(hertz, rate), rate, 16_000)
    assert len(found) == 16_000
    wanted = sine(hertz, 16_000)
    assert np.abs(found - wanted)[EDGE:-EDGE].max() < 2e-5


@pytest.mark.parametrize("rate", [22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("hertz", [8_100, 9_000, 10_500])
def test_what_the_lower_rate_cannot_hold_is_gone(rate: int, hertz: float) -> None:
    sound = sine(hertz, rate)
    divisor = np.gcd(rate, 16_000)
    ours = np.abs(resampled(sound, rate, 16_000)[EDGE:-EDGE]).max()
    scipys = np.abs(resample_poly(sound, 16_000 // divisor, rate // divisor)[EDGE:-EDGE]).max()
    assert ours < 10 ** (-90 / 20)
    assert ours < scipys


def test_what_it_can_hold_stays() -> None:
    assert np.abs(resampled(sine(7_000, 44_100), 44_100, 16_000))[EDGE:-EDGE].max() > 0.999


@settings(deadline=None)
@given(st.integers(1, 60_000), st.integers(1, 5_000), st.sampled_from([*RATES, 15_999, 44_056]))
def test_blocks_make_no_difference(samples: int, block: int, rate: int) -> None:
    sound = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    whole = resampled(sound, rate, 16_000, samples)
    parts = resampled(sound, rate, 16_000, max(block, samples // 50))
    assert len(whole) == len(parts)
    assert abs(len(whole) - samples * 16_000 / rate) <= 1 + 1e-4 * samples * 16_000 / rate
    assert np.abs(whole - parts).max(initial=0) < 1e-4
