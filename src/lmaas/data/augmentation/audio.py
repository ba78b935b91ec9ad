"""Sound, (samples,) float32 in -1 to 1, and spectrograms, (frames, bands) float32.

Source of the masks: SpecAugment, Park et al. 2019 (without time warping).
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from lmaas.data.augmentation import chosen, options_of
from lmaas.recipe import Transform

Share = Annotated[float, Meta(ge=0, le=1)]


class Step(Protocol):
    """Changes one sound or one spectrogram."""

    def __call__(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The changed array, of the same shape."""
        ...


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all transforms' options."""


class Gain(Options, frozen=True, kw_only=True):
    """Louder or softer by at most `decibels`; what leaves -1 to 1 is clipped."""

    decibels: Annotated[float, Meta(ge=0, le=60)] = 6.0

    def __call__(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Scale."""
        factor = 10 ** (random.uniform(-self.decibels, self.decibels) / 20)
        scaled: np.ndarray = np.clip(sound * np.float32(factor), -1, 1)
        return scaled


class Shift(Options, frozen=True, kw_only=True):
    """Earlier or later by at most this share of the length; silence fills the gap."""

    share: Share = 0.1

    def __call__(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Move in time."""
        most = int(self.share * len(sound))
        by = int(random.integers(-most, most + 1))
        moved = np.zeros_like(sound)
        if by >= 0:
            moved[by:] = sound[: len(sound) - by]
        else:
            moved[:by] = sound[-by:]
        return moved


class Noise(Options, frozen=True, kw_only=True):
    """White noise at a signal-to-noise ratio between `least_db` and `most_db`."""

    least_db: float = 10.0
    most_db: float = 40.0

    def __call__(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Add noise; silence stays silent."""
        ratio = random.uniform(self.least_db, max(self.least_db, self.most_db))
        power = float(np.mean(np.square(sound, dtype=np.float64)))
        scale = np.float32(np.sqrt(power / 10 ** (ratio / 10)))
        noise = random.standard_normal(sound.shape, dtype=np.float32)
        noisy: np.ndarray = np.clip(sound + scale * noise, -1, 1)
        return noisy


class SpecAugment(Options, frozen=True, kw_only=True):
    """On a spectrogram: `time_masks` spans of frames and `band_masks` of bands become its mean."""

    time_masks: Annotated[int, Meta(ge=0, le=100)] = 2
    band_masks: Annotated[int, Meta(ge=0, le=100)] = 2
    most_time: Share = 0.1
    most_bands: Share = 0.25

    def __call__(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Mask spans of both axes."""
        masked, mean = sound.copy(), sound.mean()
        frames, bands = sound.shape
        for _ in range(self.time_masks):
            width = int(random.integers(int(self.most_time * frames) + 1))
            start = int(random.integers(frames - width + 1))
            masked[start : start + width] = mean
        for _ in range(self.band_masks):
            width = int(random.integers(int(self.most_bands * bands) + 1))
            start = int(random.integers(bands - width + 1))
            masked[:, start : start + width] = mean
        return masked


STEPS: dict[str, type[Options]] = {
    "gain": Gain,
    "shift": Shift,
    "noise": Noise,
    "specaugment": SpecAugment,
}
"""Every audio augmentation by its name in a recipe."""


class AudioAugmenter:
    """What a recipe asks for: `sound` for waves, `spectrogram` for what is made of them."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        made = [(t.p, options_of(t, STEPS)) for t in transforms]
        self._waves = [(p, s) for p, s in made if not isinstance(s, SpecAugment)]
        self._spectra = [(p, s) for p, s in made if isinstance(s, SpecAugment)]

    def sound(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The sound, changed; never in place."""
        for step in chosen(self._waves, random):
            sound = step(sound, random)
        return sound

    def spectrogram(self, spectrum: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The spectrogram, masked; never in place."""
        for step in chosen(self._spectra, random):
            spectrum = step(spectrum, random)
        return spectrum
