"""What was found, drawn on an image."""

import io

import numpy as np
import pytest
from PIL import Image

from lmaas.codecs.drawing import draw
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput

MARKS = [
    Mark((10, 30, 60, 80), "cat 0.90", "cat"),
    Mark((70, 0, 99.5, 40), "dog 0.80", "dog"),
    Mark((5, 85, 30, 95), "cat " * 50, "cat"),
]


def picture(**how: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (100, 200)).save(file, "JPEG", quality=95, **how)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".webp"])
def test_boxes_lie_where_they_are_and_have_their_kind_s_colour(suffix: str) -> None:
    made = Image.open(io.BytesIO(draw(picture(), MARKS, suffix))).convert("RGB")
    assert made.size == (100, 200)
    pixels = np.asarray(made).astype(int)
    cat, dog, other = pixels[79, 30], pixels[39, 85], pixels[94, 10]
    assert cat.max() > 150
    assert np.abs(cat - other).max() < 90
    assert np.abs(cat - dog).max() > 100
    assert pixels[60, 35].max() < 40  # inside a box nothing is drawn
    assert pixels[150:].max() < 40


def test_the_picture_is_upright_and_nothing_to_draw_is_nothing_drawn() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = Image.open(io.BytesIO(draw(picture(exif=exif), [], ".png")))
    assert made.size == (200, 100)
    assert np.asarray(made).max() < 10


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not an image"):
        draw(b"no picture", MARKS, ".png")
