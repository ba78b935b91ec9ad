from typing import Any

import numpy as np
import pytest

from lmaas.data.augmentation import generator
from lmaas.data.augmentation.audio import AudioAugmenter
from lmaas.data.augmentation.image import STEPS as IMAGE_STEPS
from lmaas.data.augmentation.image import ImageAugmenter
from lmaas.data.augmentation.text import TextAugmenter
from lmaas.errors import InvalidInput
from lmaas.recipe import Transform


def image(channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 16, channels), dtype=np.uint8)


def step(name: str, p: float = 1.0, **options: Any) -> Transform:
    return Transform(name=name, p=p, options=options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(set(IMAGE_STEPS) - {"mixup", "cutmix"}))
def test_an_image_keeps_its_shape_and_its_source(name: str, channels: int) -> None:
    augment = ImageAugmenter([step(name)])
    source = image(channels)
    before = source.copy()
    changed = 0
    for index in range(20):
        result = augment(source, generator(1, 0, index))
        assert result.shape == source.shape
        assert result.dtype == np.uint8
        changed += not np.array_equal(result, source)
    assert changed >= 5
    np.testing.assert_array_equal(source, before)


def test_what_is_drawn_depends_on_seed_epoch_and_index_alone() -> None:
    augment = ImageAugmenter([step("randaugment"), step("erase", 0.5), step("crop")])
    drawn = {
        key: augment(image(), generator(*key)).tobytes()
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(set(drawn.values())) == 4
    for key, seen in drawn.items():
        assert augment(image(), generator(*key)).tobytes() == seen


def test_probability_zero_changes_nothing() -> None:
    augment = ImageAugmenter([step(name, 0.0) for name in IMAGE_STEPS])
    result = augment(image(), generator(0, 0, 0))
    np.testing.assert_array_equal(result, image())
    assert augment.mix(image(), lambda _: image(seed=1), generator(0, 0, 0))[1] == 1.0


def test_a_flip_mirrors() -> None:
    flipped = ImageAugmenter([step("flip", chance=1.0)])(image(), generator(0, 0, 0))
    np.testing.assert_array_equal(flipped, image()[:, ::-1])


def test_mixup_lays_images_over_each_other() -> None:
    augment = ImageAugmenter([step("mixup", alpha=1.0)])
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    shares = []
    for index in range(50):
        mixed, share = augment.mix(white, lambda _: black, generator(0, 0, index))
        assert abs(float(mixed.mean()) / 255 - share) < 0.01
        shares.append(share)
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_the_share_of_cutmix_is_the_area() -> None:
    augment = ImageAugmenter([step("cutmix")])
    black, white = np.zeros((10, 14, 1), np.uint8), np.full((10, 14, 1), 255, np.uint8)
    for index in range(50):
        mixed, share = augment.mix(white, lambda _: black, generator(3, 1, index))
        assert float(mixed.mean()) / 255 == pytest.approx(share)


def test_an_image_is_mixed_once() -> None:
    with pytest.raises(InvalidInput, match="mixed once"):
        ImageAugmenter([step("mixup", 0.8), step("cutmix", 0.8)])
    augment = ImageAugmenter([step("mixup", 0.5), step("cutmix", 0.5)])
    assert augment.mixes


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (step("blur"), "blur"),
        (step("rotate", degrees=500), "degrees"),
        (step("rotate", angle=5), "angle"),
        (step("flip", axis="diagonal"), "axis"),
    ],
)
def test_what_is_unknown_is_refused_by_name(transform: Transform, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        ImageAugmenter([transform])


TEXT = "The quick brown fox jumps over the lazy dog today"


def texts(*transforms: Transform) -> set[str]:
    augment = TextAugmenter(transforms)
    return {augment(TEXT, generator(0, 0, i)) for i in range(50)}


def test_words_are_swapped_and_none_is_lost() -> None:
    seen = texts(step("swap"))
    assert len(seen) > 10
    assert all(sorted(t.split()) == sorted(TEXT.split()) for t in seen)


def test_words_are_left_out_in_order() -> None:
    seen = texts(step("delete", share=0.3))
    lengths = [len(t.split()) for t in seen]
    assert 5 < np.mean(lengths) < 9
    words = TEXT.split()
    for text in seen:
        places = [words.index(word) for word in text.split()]
        assert places == sorted(places)
    assert TextAugmenter([step("delete", share=1.0)])(TEXT, generator(0, 0, 0)) in words


def test_synonyms_come_from_the_list() -> None:
    seen = texts(step("synonym", share=1.0, synonyms={"quick": ["fast"], "the": ["a", "that"]}))
    assert all("quick" not in t and "fast" in t for t in seen)
    assert {t.split()[0] for t in seen} == {"A", "That"}


def test_characters_are_disturbed() -> None:
    seen = texts(step("character-noise", share=0.1))
    assert len(seen) > 40
    assert 40 < np.mean([len(t) for t in seen]) < 60
    assert TextAugmenter([step("character-noise", share=1.0)])("a", generator(0, 0, 5))


def wave() -> np.ndarray:
    return (0.5 * np.sin(np.arange(1600) / 10)).astype(np.float32)


def test_sound_is_scaled_moved_and_disturbed_as_told() -> None:
    loud = AudioAugmenter([step("gain", decibels=6.0)])
    peaks = [float(np.abs(loud.sound(wave(), generator(0, 0, i))).max()) for i in range(50)]
    assert 0.24 < min(peaks) < 0.35
    assert 0.8 < max(peaks) <= 1.0
    moved = AudioAugmenter([step("shift", share=0.2)])
    for i in range(20):
        result = moved.sound(wave(), generator(0, 0, i))
        by = int(np.argmax(np.correlate(result, wave(), "full"))) - (len(wave()) - 1)
        assert abs(by) <= 0.2 * len(wave()) + 63
        assert result.shape == wave().shape
    noisy = AudioAugmenter([step("noise", least_db=20.0, most_db=20.0)])
    noise = noisy.sound(wave(), generator(0, 0, 0)) - wave()
    ratio = 10 * np.log10(np.mean(wave() ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(20, abs=0.5)


def test_spectrograms_are_masked() -> None:
    augment = AudioAugmenter([step("specaugment", most_time=0.2), step("gain")])
    spectrum = np.random.default_rng(0).random((100, 40)).astype(np.float32)
    for i in range(20):
        masked = augment.spectrogram(spectrum, generator(0, 0, i))
        changed = masked != spectrum
        assert changed.all(axis=1).sum() <= 40
        assert changed.all(axis=0).sum() <= 20
        np.testing.assert_array_equal(masked[changed], spectrum.mean())
