"""Images of a line of text changed so that it can still be read: seen aslant, blurred, noisy.

An image is (H, W, C) uint8 with 1 or 3 channels. Nothing is mirrored and nothing is cut off.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta
from PIL import Image, ImageFilter

from lmaas.data.augmentation import chosen, options_of
from lmaas.data.augmentation.image import Colour, Options, Rotate, Share, Step, from_pil, to_pil
from lmaas.recipe import Transform


class Perspective(Options, frozen=True, kw_only=True):
    """Each corner moved by at most `strength` of the height, either way; beyond the image its edge
    goes on."""

    strength: Annotated[float, Meta(ge=0, le=0.5)] = 0.15

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Move the corners."""
        height, width = image.shape[:2]
        pad = int(np.ceil(self.strength * height))
        around = ((pad, pad), (pad, pad), (0, 0))
        padded = to_pil(np.pad(image, around, "edge"))
        corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], np.float64)
        moved = corners + pad + random.uniform(-1, 1, (4, 2)) * self.strength * height
        quad = tuple(moved.ravel().tolist())
        return from_pil(
            padded.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
        )


class Blur(Options, frozen=True, kw_only=True):
    """Out of focus (Gaussian), by a radius of at most `radius` pixels."""

    radius: Annotated[float, Meta(gt=0, le=16)] = 1.0

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Blur."""
        blurred = to_pil(image).filter(ImageFilter.GaussianBlur(random.uniform(0, self.radius)))
        return from_pil(blurred)


class PixelNoise(Options, frozen=True, kw_only=True):
    """Normal noise in each pixel, of a deviation of at most `deviation` of 255."""

    deviation: Share = 0.06

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Add noise."""
        scale = random.uniform(0, self.deviation) * 255
        noise = scale * random.standard_normal(image.shape, np.float32)
        noisy: np.ndarray = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
        return noisy


STEPS: dict[str, type[Options]] = {
    "perspective": Perspective,
    "rotate": Rotate,
    "blur": Blur,
    "pixel-noise": PixelNoise,
    "colour": Colour,
}
"""Every augmentation of lines of text by its name in a recipe."""


class LineAugmenter:
    """What a recipe asks for, on lines of text. Raises InvalidInput for what is unknown."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._steps: list[tuple[float, Step]] = [
            (t.p, options_of(t, STEPS))  # type: ignore[misc]
            for t in transforms
        ]

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The image, (H, W, C) uint8, changed; never in place."""
        for step in chosen(self._steps, random):
            image = step(image, random)
        return np.ascontiguousarray(image)
