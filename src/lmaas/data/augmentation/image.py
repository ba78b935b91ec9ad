"""Images, (H, W, C) uint8 with 1 or 3 channels: geometry, colour, erasing, and mixing of two.

Sources: random erasing, Zhong et al. 2017; mixup, Zhang et al. 2018; CutMix, Yun et al. 2019;
RandAugment, Cubuk et al. 2019. Pixels that come from outside are black.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from PIL import Image, ImageEnhance, ImageOps

from lmaas.data.augmentation import chosen, options_of
from lmaas.errors import InvalidInput
from lmaas.recipe import Transform

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Degrees = Annotated[float, Meta(ge=0, le=180)]

HIGHEST_MAGNITUDE: Final = 10.0
"""RandAugment's magnitudes are shares of this."""


class Step(Protocol):
    """Changes one image."""

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The changed image, of the same shape."""
        ...


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all transforms' options."""


class Flip(Options, frozen=True, kw_only=True):
    """Mirrored, by default half of the time."""

    axis: Literal["horizontal", "vertical"] = "horizontal"
    chance: Share = 0.5

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Mirror, or not."""
        if random.random() >= self.chance:
            return image
        return image[:, ::-1] if self.axis == "horizontal" else image[::-1]


class Crop(Options, frozen=True, kw_only=True):
    """Shifted by at most `padding` pixels each way; with `scale`, a part of that share of the area
    at least is enlarged to the whole."""

    padding: Annotated[int, Meta(ge=0, le=512)] = 4
    scale: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Cut out a window of the same size."""
        height, width = image.shape[:2]
        if self.scale < 1:
            side = float(np.sqrt(random.uniform(self.scale, 1)))
            h, w = max(1, round(height * side)), max(1, round(width * side))
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            part = to_pil(image[top : top + h, left : left + w])
            image = from_pil(part.resize((width, height), Image.Resampling.BILINEAR))
        if not self.padding:
            return image
        pad = self.padding
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        top, left = random.integers(2 * pad + 1), random.integers(2 * pad + 1)
        return padded[top : top + height, left : left + width]


class Rotate(Options, frozen=True, kw_only=True):
    """Turned about the middle by at most `degrees` either way."""

    degrees: Degrees = 15.0

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Turn."""
        angle = random.uniform(-self.degrees, self.degrees)
        return from_pil(to_pil(image).rotate(angle, Image.Resampling.BILINEAR))


class Colour(Options, frozen=True, kw_only=True):
    """Brightness, contrast and saturation, each multiplied by 1 - x to 1 + x."""

    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Change the colours; a grey image has no saturation."""
        picture = to_pil(image)
        factors = 1 + random.uniform(-1, 1, 3) * (self.brightness, self.contrast, self.saturation)
        picture = ImageEnhance.Brightness(picture).enhance(factors[0])
        picture = ImageEnhance.Contrast(picture).enhance(factors[1])
        if image.shape[2] == 3:
            picture = ImageEnhance.Color(picture).enhance(factors[2])
        return from_pil(picture)


class Erase(Options, frozen=True, kw_only=True):
    """A rectangle of `least` to `most` of the area is filled with noise."""

    least: Share = 0.02
    most: Share = 0.2

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Erase one rectangle."""
        height, width = image.shape[:2]
        area = random.uniform(self.least, max(self.least, self.most)) * height * width
        aspect = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3)))
        h = int(np.clip(round(np.sqrt(area * aspect)), 1, height))
        w = int(np.clip(round(np.sqrt(area / aspect)), 1, width))
        top, left = random.integers(height - h + 1), random.integers(width - w + 1)
        image = image.copy()
        image[top : top + h, left : left + w] = random.integers(
            0, 256, (h, w, image.shape[2]), dtype=np.uint8
        )
        return image


class RandAugment(Options, frozen=True, kw_only=True):
    """`count` operations drawn from all, each at `magnitude` (0 to 10)."""

    count: Annotated[int, Meta(ge=1, le=16)] = 2
    magnitude: Annotated[float, Meta(ge=0, le=HIGHEST_MAGNITUDE)] = 5.0

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Apply the drawn operations, one after the other."""
        picture = to_pil(image)
        share = self.magnitude / HIGHEST_MAGNITUDE
        for index in random.integers(len(OPERATIONS), size=self.count):
            sign = 1.0 if random.random() < 0.5 else -1.0
            picture = OPERATIONS[index](picture, share * sign)
        return from_pil(picture)


def _affine(picture: Image.Image, a: float, b: float, c: float, d: float) -> Image.Image:
    """x' = x + a y + b, y' = c x + y + d, in the middle's coordinates."""
    x, y = picture.width / 2, picture.height / 2
    matrix = (1, a, b - a * y, c, 1, d - c * x)
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda p, m: p,
    lambda p, m: ImageOps.autocontrast(p),
    lambda p, m: ImageOps.equalize(p),
    lambda p, m: p.rotate(30 * m, Image.Resampling.BILINEAR),
    lambda p, m: ImageOps.posterize(p, 8 - round(4 * abs(m))),
    lambda p, m: ImageOps.solarize(p, round(256 * (1 - abs(m)))),
    lambda p, m: ImageEnhance.Color(p).enhance(1 + 0.9 * m) if p.mode == "RGB" else p,
    lambda p, m: ImageEnhance.Contrast(p).enhance(1 + 0.9 * m),
    lambda p, m: ImageEnhance.Brightness(p).enhance(1 + 0.9 * m),
    lambda p, m: ImageEnhance.Sharpness(p).enhance(1 + 0.9 * m),
    lambda p, m: _affine(p, 0.3 * m, 0, 0, 0),
    lambda p, m: _affine(p, 0, 0, 0.3 * m, 0),
    lambda p, m: _affine(p, 0, 0.45 * p.width * m, 0, 0),
    lambda p, m: _affine(p, 0, 0, 0, 0.45 * p.height * m),
)
"""RandAugment's operations at a strength from -1 to 1."""


class Mixup(Options, frozen=True, kw_only=True):
    """Two images laid over each other, their labels with the same shares (Beta(alpha, alpha))."""

    alpha: Positive = 0.2

    def mix(
        self, one: np.ndarray, other: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """The mixed image and the share of `one` in it."""
        share = random.beta(self.alpha, self.alpha)
        mixed = share * one.astype(np.float32) + (1 - share) * other.astype(np.float32)
        return np.rint(mixed).astype(np.uint8), float(share)


class CutMix(Options, frozen=True, kw_only=True):
    """A rectangle of another image put in, labels by its area."""

    alpha: Positive = 1.0

    def mix(
        self, one: np.ndarray, other: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """The mixed image and the share of `one` in it."""
        height, width = one.shape[:2]
        side = np.sqrt(1 - random.beta(self.alpha, self.alpha))
        h, w = round(height * side), round(width * side)
        y, x = random.integers(height), random.integers(width)
        top, bottom = max(0, y - h // 2), min(height, y + (h + 1) // 2)
        left, right = max(0, x - w // 2), min(width, x + (w + 1) // 2)
        mixed = one.copy()
        mixed[top:bottom, left:right] = other[top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


STEPS: dict[str, type[Options]] = {
    "flip": Flip,
    "crop": Crop,
    "rotate": Rotate,
    "colour": Colour,
    "erase": Erase,
    "randaugment": RandAugment,
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Every image augmentation by its name in a recipe."""


class ImageAugmenter:
    """What a recipe asks for, on images. Raises InvalidInput for what is unknown."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        made = [(t.p, options_of(t, STEPS)) for t in transforms]
        self._steps = [(p, s) for p, s in made if not isinstance(s, Mixup | CutMix)]
        self._mixes = [(p, s) for p, s in made if isinstance(s, Mixup | CutMix)]
        if sum(p for p, _ in self._mixes) > 1:
            raise InvalidInput(
                "An image is mixed once: the probabilities of mixup and cutmix sum to more than 1.",
                hint="Give each a p, say 0.5.",
                param="augmentation",
            )

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of two classes."""
        return bool(self._mixes)

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The image, (H, W, C) uint8, changed; never in place."""
        for step in chosen(self._steps, random):
            image = step(image, random)
        return np.ascontiguousarray(image)

    def mix(
        self,
        image: np.ndarray,
        other: Callable[[np.random.Generator], np.ndarray],
        random: np.random.Generator,
    ) -> tuple[np.ndarray, float]:
        """The image mixed with what `other` draws, and its own share; (image, 1.0) if unmixed."""
        drawn = random.random()
        for p, step in self._mixes:
            if drawn < p:
                return step.mix(image, other(random), random)
            drawn -= p
        return image, 1.0


def to_pil(image: np.ndarray) -> Image.Image:
    """(H, W, 1) or (H, W, 3) uint8 as a picture."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image))


def from_pil(picture: Image.Image) -> np.ndarray:
    """The picture as (H, W, C) uint8."""
    array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array
