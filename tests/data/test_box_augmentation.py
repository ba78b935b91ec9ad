"""Augmentation moves boxes with their pixels."""

from typing import Any

import numpy as np
import pytest

from lmaas.data.augmentation import generator
from lmaas.data.augmentation.boxes import STEPS, BoxAugmenter, Mosaic, Scene, inside
from lmaas.errors import InvalidInput
from lmaas.recipe import Transform

HEIGHT, WIDTH = 48, 64


def scene(seed: int, kind: int = 0) -> Scene:
    """A black image with a white rectangle and its box."""
    random = np.random.default_rng(seed)
    width, height = random.integers(14, 30, 2).tolist()
    left, top = int(random.integers(0, WIDTH - width)), int(random.integers(0, HEIGHT - height))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[top : top + height, left : left + width] = 255
    box = np.array([[left, top, left + width, top + height]], np.float64)
    return Scene(image, box, np.array([kind]))


def augmented(name: str, seed: int, **options: Any) -> Scene:
    augmenter = BoxAugmenter([Transform(name=name, options=options)])
    return augmenter(
        scene(seed), lambda random: scene(int(random.integers(99))), generator(0, 0, seed)
    )


def around(image: np.ndarray) -> list[float]:
    """The box of what is white."""
    rows, columns = np.where(image.mean(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flip", {"chance": 1}),
        ("flip", {"chance": 1, "axis": "vertical"}),
        ("window", {}),
        ("window", {"least": 0.4, "most": 0.6}),
        ("window", {"least": 1.5, "most": 2}),
    ],
)
def test_the_box_is_where_its_pixels_are(name: str, options: dict[str, Any]) -> None:
    moved = 0
    for seed in range(40):
        told = augmented(name, seed, **options)
        assert told.image.shape == (HEIGHT, WIDTH, 3)
        if not len(told.boxes):
            continue
        np.testing.assert_allclose(told.boxes[0], around(told.image), atol=1.6)
        moved += not np.array_equal(told.boxes, scene(seed).boxes)
    assert moved > 20


def test_a_mosaic_is_four_scenes_with_their_boxes() -> None:
    for seed in range(20):
        four = [scene(4 * seed + place, place) for place in range(4)]
        told = Mosaic().join(four, generator(0, 0, seed))
        assert told.image.shape == (HEIGHT, WIDTH, 3)
        assert told.classes.tolist() == [0, 1, 2, 3]
        for left, top, right, bottom in told.boxes.tolist():
            part = told.image[round(top) : round(bottom), round(left) : round(right)]
            assert part.mean() > 180
        white = (told.image.mean(axis=2) > 127).sum()
        sides = told.boxes[:, 2:] - told.boxes[:, :2]
        assert sides.prod(axis=1).sum() == pytest.approx(white, rel=0.15)


def test_what_is_nearly_out_of_the_image_goes() -> None:
    image = scene(0).image
    boxes = np.array([[-8, 0, 12, 10], [-18, 0, 2, 10], [60, 40, 90, 60], [0, 0, 0.5, 9]], float)
    told = inside(Scene(image, boxes, np.arange(4)))
    assert told.classes.tolist() == [0]
    assert told.boxes.tolist() == [[0, 0, 12, 10]]


def test_the_same_numbers_give_the_same_scene_and_nothing_is_changed_in_place() -> None:
    for name in STEPS:
        before = scene(3)
        one, other = augmented(name, 3), augmented(name, 3)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(scene(3).image, before.image)


def test_what_is_not_known_is_refused() -> None:
    for bad, told in (
        (Transform(name="mixup"), "known here: .*mosaic"),
        (Transform(name="rotate"), "known here"),
        (Transform(name="window", options={"least": 9}), "window"),
    ):
        with pytest.raises(InvalidInput, match=told):
            BoxAugmenter([bad])
    with pytest.raises(InvalidInput, match="twice"):
        BoxAugmenter([Transform(name="mosaic"), Transform(name="mosaic")])
