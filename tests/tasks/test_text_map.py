"""Lines of text from a map of pixels: places, rectangles around them, where they lie."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.codecs.rectify import rectified, sides
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.tasks.object_detection import matching, text_map
from lmaas.tasks.object_detection.rectangles import hull, places, smallest
from lmaas.tasks.optical_character_recognition.pipeline import in_order
from lmaas.types import DetectionSpec, ImageSpec, Payload, Signature, TensorSpec

TASK = tasks.get("object-detection")
SPEC = DetectionSpec(head="map", most=1000)


def signed(**fields: Any) -> Signature:
    told = {
        "inputs": (TensorSpec(name="x", dtype="float32", shape=(-1, 3, 64, 96)),),
        "outputs": (TensorSpec(name="y", dtype="float32", shape=(-1, 1, 64, 96)),),
        "image": ImageSpec(height=64, width=96, resize="letterbox"),
        **fields,
    }
    return TASK.check_signature(Signature(**told))


def turned(angle: float, size: tuple[int, int] = (60, 12)) -> np.ndarray:
    """A map with a bar of this size that is turned by so many degrees, in the middle."""
    picture = Image.new("L", (96, 96))
    ImageDraw.Draw(picture).rectangle(
        (48 - size[0] // 2, 48 - size[1] // 2, 47 + size[0] // 2, 47 + size[1] // 2), 255
    )
    return np.asarray(picture.rotate(angle, Image.Resampling.BICUBIC), np.float32) / 255


def test_places_are_pixels_that_touch() -> None:
    random = np.random.default_rng(0)
    for share in (0.1, 0.4, 0.6, 0.9):
        inside = random.random((30, 40)) < share
        runs = places(inside)
        found = np.zeros(inside.shape, int)
        for row, start, end, place in zip(*runs, strict=True):
            found[row, start:end] = place + 1
        assert ((found > 0) == inside).all()
        # By hand: spread each pixel's number to its neighbours until nothing changes.
        label = np.where(inside, np.arange(1, inside.size + 1).reshape(inside.shape), 0)
        while True:
            padded = np.pad(label, 1)
            most = np.max([padded[y : y + 30, x : x + 40] for y in range(3) for x in range(3)], 0)
            new = np.where(inside, most, 0)
            if (new == label).all():
                break
            label = new
        pairs = {(int(a), int(b)) for a, b in zip(found[inside], label[inside], strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert len(places(np.zeros((4, 4), bool)).row) == 0


def test_hulls_and_smallest_rectangles() -> None:
    square = np.array([[0, 0], [4, 0], [4, 3], [0, 3], [2, 1], [2, 0]], float)
    assert {tuple(point) for point in hull(square)} == {(0, 0), (4, 0), (4, 3), (0, 3)}
    around = smallest(square)
    assert sorted(around.sides) == [3, 4]
    assert around.corners().tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    for points in ([[2, 2]], [[2, 2], [2, 2]], [[0, 0], [3, 3], [1, 1]]):
        found = smallest(np.array(points, float))
        assert found.sides.min() == pytest.approx(0)
        assert np.isfinite(found.corners()).all()


@pytest.mark.parametrize("angle", [0, 10, 35, -30, 90])
def test_a_line_is_found_as_it_lies(angle: float) -> None:
    found = text_map.find(turned(angle), SPEC, 0.5)
    assert len(found.scores) == 1
    assert found.scores[0] > 0.9
    (corners,) = found.corners
    # 60 x 12, grown by its area times 1.6 by its circumference on each side, less a pixel.
    grown = 59 * 11 * 1.6 / (2 * (59 + 11))
    width, height = sides(corners)
    assert (
        (width, height)
        if angle != 90
        else (height, width) == pytest.approx((59 + 2 * grown, 11 + 2 * grown), abs=3)
    )
    np.testing.assert_allclose(corners.mean(axis=0), [48, 48], atol=1)
    if angle not in (0, 90):
        slope = np.degrees(np.arctan2(*(corners[1] - corners[0])[::-1]))
        assert slope == pytest.approx(-angle, abs=3)
    assert corners[0][1] <= corners[3][1]


def test_noise_and_nothing_are_no_lines() -> None:
    random = np.random.default_rng(0)
    assert len(text_map.find(np.zeros((64, 96), np.float32), SPEC, 0).scores) == 0
    noise = (random.random((640, 960)) < 0.5).astype(np.float32)
    assert len(text_map.find(noise, SPEC, 0.6).scores) <= 1000
    few = DetectionSpec(head="map", most=3)
    spots = np.zeros((64, 96), np.float32)
    for place in range(8):
        spots[4:12, 12 * place : 12 * place + 8] = 0.4 + 0.05 * place
    assert len(text_map.find(spots, few, 0.0).scores) == 3
    sure = text_map.find(spots, SPEC, 0.6).scores
    assert (sure >= 0.6).all()
    assert (np.diff(sure) <= 0).all()
    assert len(sure) == 4


def test_boxes_and_corners_are_those_of_the_picture() -> None:
    """Of one twice as large, which the input shows between bars."""
    signature = signed()
    assert signature.detection is not None
    assert (signature.detection.head, signature.labels) == ("map", ("text",))
    file = io.BytesIO()
    Image.new("RGB", (160, 128)).save(file, "PNG")
    batch = TASK.read(Payload(body=file.getvalue()), signature, Limits())
    likely = np.zeros((1, 1, 64, 96), np.float32)
    likely[0, 0, 20:30, 28:68] = 0.9
    (found,) = json.loads(TASK.write({"y": likely}, batch, signature, "m:1").body)
    assert found["score"] == pytest.approx(0.9, abs=1e-5)
    grown = 39 * 9 * 1.6 / (2 * (39 + 9))
    want = [28.5 - grown - 8, 20.5 - grown, 67.5 + grown - 8, 29.5 + grown]
    np.testing.assert_allclose(list(found["box"].values()), np.array(want) * 2, atol=0.05)
    left, top, right, bottom = found["box"].values()
    np.testing.assert_allclose(
        found["corners"], [[left, top], [right, top], [right, bottom], [left, bottom]], atol=0.05
    )
    assert json.loads(TASK.write({"y": np.zeros_like(likely)}, batch, signature, "m:1").body) == []
    with pytest.raises(LMaaSError, match="NaN"):
        TASK.write({"y": np.full_like(likely, np.nan)}, batch, signature, "m:1")
    view = matching.view({"y": likely}, signature)
    assert matching.aligned(view, view, signature)["scores"].shape == (1, 64 * 96, 1)
    with pytest.raises(InvalidInput, match="do not fit the head map"):
        signed(
            detection=DetectionSpec(head="map"),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 1, 32, 48)),),
        )


def test_what_lies_aslant_is_made_upright() -> None:
    """A checkered strip, turned and cut out again."""
    strip = Image.new("L", (64, 16))
    pen = ImageDraw.Draw(strip)
    for place in range(4):
        pen.rectangle((16 * place, 0, 16 * place + 15, 15), 60 * (place + 1))
    whole = Image.new("L", (120, 120))
    whole.paste(strip, (28, 52))
    angle = np.deg2rad(30)
    turned_ = whole.rotate(30, Image.Resampling.BICUBIC)
    corners = np.array([[28, 52], [92, 52], [92, 68], [28, 68]], float) - 60
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = rectified(turned_, corners @ turn + 60)
    assert found.size == (64, 16)
    middle = np.asarray(found, float)[8, 8::16]
    np.testing.assert_allclose(middle, [60, 120, 180, 240], atol=3)
    # Over the edge, of no area, of one point: nothing breaks.
    for bad in (
        [[-50, -50], [50, -50], [50, 50], [-50, 50]],
        [[5, 5], [90, 5], [90, 5], [5, 5]],
        [[7, 7]] * 4,
        [[500, 500], [600, 500], [600, 600], [500, 600]],
    ):
        assert min(rectified(turned_, np.array(bad, float)).size) >= 1


def test_lines_are_read_from_the_top_and_from_the_left() -> None:
    boxes = np.array(
        [[200, 12, 260, 30], [10, 50, 90, 70], [10, 10, 90, 32], [100, 8, 190, 28], [5, 90, 9, 94]]
    )
    assert in_order(boxes) == [2, 3, 0, 1, 4]
    assert in_order(np.zeros((0, 4))) == []
