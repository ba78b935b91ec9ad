"""Where somebody speaks, windows that are cut there, and when words are spoken."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmaas.tasks.automatic_speech_recognition import timing, voice, windows
from lmaas.tasks.automatic_speech_recognition.voice import SAMPLE_RATE, Span
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WordTokens
from lmaas.transcription_types import Detection


def speech(*parts: tuple[float, float]) -> np.ndarray:
    """Loud and soft stretches of noise, each (seconds, amplitude)."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.normal(0, loud, int(s * SAMPLE_RATE)).astype(np.float32) for s, loud in parts]
    )


def spoken(samples: np.ndarray, detection: Detection | None = None) -> list[Span]:
    likely = voice.by_loudness(voice.loudness(samples))
    return voice.spans(likely, detection or Detection(), len(samples) / SAMPLE_RATE)


def test_loud_stretches_are_speech_and_soft_ones_are_not() -> None:
    sound = speech((2, 0.001), (3, 0.1), (2, 0.001), (1, 0.05), (2, 0.001))
    first, second = spoken(sound, Detection(padding_s=0))
    assert first == pytest.approx((2, 5), abs=0.1)
    assert second == pytest.approx((7, 8), abs=0.1)
    padded = spoken(sound, Detection(padding_s=0.5))
    assert padded[0] == pytest.approx((1.5, 5.5), abs=0.1)
    assert len(spoken(sound, Detection(silence_s=3))) == 1


def test_silence_holds_no_speech_however_it_is_detected() -> None:
    for sound in (np.zeros(SAMPLE_RATE * 3, np.float32), speech((3, 1e-5)), speech((0.01, 0))):
        assert voice.likelihoods(sound).max(initial=0) == 0
        assert not voice.spans(voice.likelihoods(sound), Detection(threshold=0), 3.0)


def test_a_threshold_of_one_hears_next_to_nothing() -> None:
    assert not spoken(speech((1, 0.001), (2, 0.1)), Detection(threshold=1.0))


@given(
    st.lists(st.tuples(st.floats(0.1, 70), st.floats(0.1, 40)), max_size=12),
    st.floats(5, 30),
)
def test_windows_hold_all_speech_and_are_never_too_long(
    lengths: list[tuple[float, float]], most_s: float
) -> None:
    at, spans = 0.0, []
    for silence, length in lengths:
        spans.append(Span(at + silence, at + silence + length))
        at = spans[-1].end
    loud = np.random.default_rng(0).normal(-30, 5, int(at / voice.FRAME_S) + 1)
    found = windows.cut(spans, loud, most_s)
    assert all(window.end - window.start <= most_s + 1e-6 for window in found)
    assert all(before.end <= after.start + 1e-6 for before, after in itertools.pairwise(found))
    held = sum(windows.spoken_s(spans, window) for window in found)
    assert held == pytest.approx(sum(span.end - span.start for span in spans))


def test_speech_without_a_pause_is_cut_at_its_softest_place() -> None:
    loud = np.full(2000, -20.0)
    loud[int(25 / voice.FRAME_S) : int(25.3 / voice.FRAME_S)] = -60
    first, second = windows.cut([Span(0, 40)], loud, 30)
    assert first.end == second.start == pytest.approx(25.15, abs=0.1)


def test_the_warped_path_is_the_cheapest() -> None:
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 1), (1, 7), (7, 1), (6, 9), (30, 20)):
        cost = rng.normal(size=(rows, columns)).astype(np.float32)
        i, j = timing.warp(cost)
        assert (i[0], j[0], i[-1], j[-1]) == (0, 0, rows - 1, columns - 1)
        steps = set(zip(np.diff(i).tolist(), np.diff(j).tolist(), strict=True))
        assert steps <= {(0, 1), (1, 0), (1, 1)}
        total = np.full((rows + 1, columns + 1), np.inf)
        total[0, 0] = 0
        for r in range(rows):
            for c in range(columns):
                total[r + 1, c + 1] = cost[r, c] + min(
                    total[r, c], total[r, c + 1], total[r + 1, c]
                )
        assert cost[i, j].sum() == pytest.approx(total[rows, columns], rel=1e-4, abs=1e-4)


def test_words_are_where_the_heads_looked() -> None:
    looked = np.full((3, 5, 100), 1e-3, np.float32)
    for token, place in enumerate((10, 30, 50, 70, 90)):
        looked[:, token, place - 8 : place + 8] = 1
    times = timing.token_times(looked, 100)
    words = timing.words_of(
        [WordTokens(" one", 1), WordTokens(" two", 2), WordTokens(" six.", 1)], times, [0.5] * 4
    )
    assert [word.word for word in words] == [" one", " two", " six."]
    assert words[1].start == pytest.approx(0.4, abs=0.15)
    assert all(word.start <= word.end for word in words)
    assert words[0].end <= words[1].start + 1e-9
