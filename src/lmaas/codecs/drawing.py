"""What a model found in an image, drawn on it: for people to look at."""

import io
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from lmaas.codecs.image import decode
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.types import ImageSpec

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
WHOLE: Final = ImageSpec(height=1 << 16, width=1 << 16, channels=3)
"""No part of a JPEG is left out."""
LIGHT: Final = 128 * 1000
LONGEST_TEXT: Final = 60


def draw(data: bytes, marks: Sequence[Mark], suffix: str) -> bytes:
    """The image, upright, with the marks on it, in the format of a file name's `suffix`.

    Raises InvalidInput, PayloadTooLarge for what is no image that is read.
    """
    picture = decode(data, WHOLE, Limits())
    pen = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / 400))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 50)))
    colours = _colours(marks)
    # The largest first, so that none hides another.
    for mark in sorted(marks, key=_area, reverse=True):
        colour = colours[mark.kind]
        left, top, right, bottom = mark.box
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(corners, None, colours[mark.kind], width)
    for mark in marks:
        text = mark.text[:LONGEST_TEXT]
        if not text:
            continue
        left, top = mark.box[:2]
        wide, high = pen.textbbox((0, 0), text, font)[2:]
        x = max(0.0, min(left, picture.width - wide))
        y = top - high if top >= high else top
        colour = colours[mark.kind]
        pen.rectangle((x, y, x + wide, y + high), colour)
        red, green, blue = colour
        light = 299 * red + 587 * green + 114 * blue > LIGHT
        pen.text((x, y), text, (0, 0, 0) if light else (255, 255, 255), font)
    file = io.BytesIO()
    picture.save(file, FORMATS[suffix.lower()])
    return file.getvalue()


def drawn_image() -> bytes:
    """A PNG of 320 x 240 pixels with shapes on it, always the same: what a pipeline is tried on."""
    picture = Image.new("RGB", (320, 240), (96, 128, 112))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((30, 40, 130, 110), (230, 60, 40))
    pen.ellipse((180, 60, 270, 150), (250, 220, 60), (20, 20, 20), 3)
    pen.polygon(((90, 220), (150, 150), (200, 225)), (40, 90, 220))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drawn_text() -> bytes:
    """A PNG of 320 x 96 pixels with a line of text, always the same: for pipelines that read."""
    picture = Image.new("RGB", (320, 96), (255, 255, 255))
    ImageDraw.Draw(picture).text((24, 24), "AB 12 CD 34", (0, 0, 0), ImageFont.load_default(42))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _area(mark: Mark) -> float:
    left, top, right, bottom = mark.box
    return (right - left) * (bottom - top)


def _colours(marks: Sequence[Mark]) -> dict[str, tuple[int, int, int]]:
    """A clear colour for each kind, as far apart as so many can be."""
    kinds = sorted({mark.kind for mark in marks})
    found = {}
    for number, kind in enumerate(kinds):
        hue = round(255 * number / len(kinds))
        picked = Image.new("HSV", (1, 1), (hue, 220, 235)).convert("RGB").getpixel((0, 0))
        assert isinstance(picked, tuple)
        found[kind] = (int(picked[0]), int(picked[1]), int(picked[2]))
    return found
