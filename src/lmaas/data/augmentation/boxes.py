"""Images and their boxes changed together: what moves pixels moves boxes.

An image is (H, W, C) uint8 with 1 or 3 channels; `boxes` are (n, 4) corners in its pixels. A box of
which less than `KEPT` of the area stays in the image goes. Mosaic: Bochkovskiy et al., 2020.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta
from PIL import Image

from lmaas.data.augmentation import chosen, options_of
from lmaas.data.augmentation.image import (
    Colour,
    Erase,
    Flip,
    Options,
    from_pil,
    to_pil,
)
from lmaas.errors import InvalidInput
from lmaas.recipe import Transform

KEPT: Final = 0.35
SMALLEST: Final = 1.0
"""A side in pixels; a shorter one is no box any more."""


class Scene(NamedTuple):
    """An image with its boxes (n, 4) and their class numbers (n,)."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


class Window(Options, frozen=True, kw_only=True):
    """A window of `least` to `most` of the sides, somewhere, becomes the image; above 1 it reaches
    beyond it, and the image becomes smaller."""

    least: Annotated[float, Meta(ge=0.1, le=4)] = 0.7
    most: Annotated[float, Meta(ge=0.1, le=4)] = 1.3

    def move(self, scene: Scene, random: np.random.Generator) -> Scene:
        """Cut out the window and enlarge it, or lay the image down smaller."""
        height, width = scene.image.shape[:2]
        side = random.uniform(self.least, max(self.least, self.most))
        free = 1 - side
        left, top = random.uniform(min(0, free), max(0, free), 2)
        window = (left * width, top * height, (left + side) * width, (top + side) * height)
        picture = to_pil(scene.image)
        moved = picture.transform(
            (width, height), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR
        )
        shift = np.array([window[0], window[1]] * 2)
        return inside(Scene(from_pil(moved), (scene.boxes - shift) / side, scene.classes))


class Mosaic(Options, frozen=True, kw_only=True):
    """Four images, each half as large, in one; the place where they meet is drawn."""

    spread: Annotated[float, Meta(ge=0, le=0.4)] = 0.2

    def join(self, scenes: Sequence[Scene], random: np.random.Generator) -> Scene:
        """The four images, each scaled to its quarter."""
        height, width = scenes[0].image.shape[:2]
        x = round(width * random.uniform(0.5 - self.spread, 0.5 + self.spread))
        y = round(height * random.uniform(0.5 - self.spread, 0.5 + self.spread))
        whole = np.zeros_like(scenes[0].image)
        boxes, classes = [], []
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        for scene, (left, top, right, bottom) in zip(scenes, corners, strict=True):
            size = (right - left, bottom - top)
            part = to_pil(scene.image).resize(size, Image.Resampling.BILINEAR)
            whole[top:bottom, left:right] = from_pil(part)
            scale = np.array([size[0] / width, size[1] / height] * 2)
            boxes.append(scene.boxes * scale + np.array([left, top] * 2))
            classes.append(scene.classes)
        return inside(Scene(whole, np.concatenate(boxes), np.concatenate(classes)))


STEPS: dict[str, type[Options]] = {
    "flip": Flip,
    "window": Window,
    "colour": Colour,
    "erase": Erase,
    "mosaic": Mosaic,
}
"""Every augmentation of images with boxes by its name in a recipe."""


class BoxAugmenter:
    """What a recipe asks for, on images with boxes. Raises InvalidInput for what is unknown."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        made = [(t.p, options_of(t, STEPS)) for t in transforms]
        self._steps = [(p, s) for p, s in made if not isinstance(s, Mosaic)]
        mosaics = [(p, s) for p, s in made if isinstance(s, Mosaic)]
        if len(mosaics) > 1:
            raise InvalidInput("mosaic is there twice.", param="augmentation")
        self._mosaic = mosaics[0] if mosaics else None

    def __call__(
        self,
        scene: Scene,
        other: Callable[[np.random.Generator], Scene],
        random: np.random.Generator,
    ) -> Scene:
        """The scene changed, and joined with three that `other` draws where it is its turn."""
        if self._mosaic is not None and random.random() < self._mosaic[0]:
            four = [scene, *(other(random) for _ in range(3))]
            scene = self._mosaic[1].join(four, random)
        for step in chosen(self._steps, random):
            scene = _applied(step, scene, random)
        return scene._replace(image=np.ascontiguousarray(scene.image))


def _applied(step: Options, scene: Scene, random: np.random.Generator) -> Scene:
    match step:
        case Window():
            return step.move(scene, random)
        case Flip():
            return _flipped(step, scene, random)
        case Colour() | Erase():
            return scene._replace(image=step(scene.image, random))
        case _:
            raise AssertionError(type(step).__name__)


def _flipped(step: Flip, scene: Scene, random: np.random.Generator) -> Scene:
    if random.random() >= step.chance:
        return scene
    height, width = scene.image.shape[:2]
    left, top, right, bottom = scene.boxes.T
    if step.axis == "horizontal":
        boxes = np.stack([width - right, top, width - left, bottom], axis=1)
        return scene._replace(image=scene.image[:, ::-1], boxes=boxes)
    boxes = np.stack([left, height - bottom, right, height - top], axis=1)
    return scene._replace(image=scene.image[::-1], boxes=boxes)


def inside(scene: Scene) -> Scene:
    """The boxes cut off at the image's edges, without those of which little is left."""
    height, width = scene.image.shape[:2]
    most = np.array([width, height] * 2, np.float64)
    cut = np.clip(scene.boxes, 0, most)
    sides, before = cut[:, 2:] - cut[:, :2], scene.boxes[:, 2:] - scene.boxes[:, :2]
    left = sides.prod(axis=1) >= KEPT * before.prod(axis=1)
    kept = left & (sides >= SMALLEST).all(axis=1)
    return Scene(scene.image, cut[kept], scene.classes[kept])
