"""Licence plates: found by one model, read by another, served as one.

    python recipes/plates.py [--quick] [--home DIR]

Scenes of 480 x 288 pixels have one or two plates of drawn letters, seen aslant, blurred and noisy,
on cars that are boxes. A detector learns 1,200 scenes (JSONL in a zip), a reader 6,000 plates that
are cut out of others (CSV in a zip), both from nothing. Together they become the model `plates`:
detector -> crop -> reader. It is served and asked for 200 scenes that no run saw, by Hugging Face's
own client, with the form that plates have (`AA-00-AA` or `AA-000-A`): so O and 0, I and 1, which
look alike, are told apart by where they stand. A picture with what was read is written. Exit code 0
only when 95 % of the plates are found and read letter for letter. With --quick 96 scenes and 160
plates of four characters prove the way and not the result. `--framework keras` or `tensorflow`
trains the reader in another one. Needs `lmaas[train]`.
"""

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE: Final = (480, 288)
PATTERN: Final = "AA-00-AA|AA-000-A"
FORMS: Final = ("AA-00-AA", "AA-000-A")
CHOICES: Final = {"A": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0": "0123456789"}
SCENES, SCENES_QUICK = 1200, 96
PLATES, PLATES_QUICK = 6000, 160
HELD, HELD_QUICK = 200, 12
LEAST: Final = 0.95
"""The share of the plates that must be found and read letter for letter."""
NEAR: Final = 0.5
"""A plate is found where a place overlaps it by so much."""
PICTURE: Final = Path(tempfile.gettempdir()) / "lmaas-plates" / "plates.png"

Corners = tuple[float, float, float, float]


class Plate(NamedTuple):
    """What is written on a plate, and the box around it."""

    text: str
    box: Corners


class Scene(NamedTuple):
    """A picture and its plates."""

    image: Image.Image
    plates: list[Plate]

    @property
    def file(self) -> bytes:
        """It as a JPEG file."""
        file = io.BytesIO()
        self.image.save(file, "JPEG", quality=85)
        return file.getvalue()


def written(random: np.random.Generator) -> str:
    """What a plate says."""
    form = FORMS[int(random.integers(len(FORMS)))]
    return "".join(
        CHOICES[each][int(random.integers(len(CHOICES[each])))] if each in CHOICES else each
        for each in form
    )


def plate(text: str, random: np.random.Generator) -> Image.Image:
    """A flat plate, (RGBA), of about 4.5 times its height."""
    light = int(random.integers(190, 256))
    ground = (light, light, int(random.integers(60, light)) if random.random() < 0.3 else light)
    ink = tuple(int(each) for each in random.integers(0, 70, 3))
    font = ImageFont.load_default(48)
    bold = int(random.integers(0, 2))
    left, top, right, bottom = (int(each) for each in font.getbbox(text, stroke_width=bold))
    pad = random.integers(6, 14, 4)
    width, height = right - left + int(pad[0] + pad[1]), bottom - top + int(pad[2] + pad[3])
    made = Image.new("RGBA", (width, height), (*ground, 255))
    pen = ImageDraw.Draw(made)
    place = (int(pad[0]) - left, int(pad[2]) - top)
    pen.text(place, text, (*ink, 255), font, stroke_width=bold)
    pen.rectangle((0, 0, width - 1, height - 1), None, (*ink, 255), int(random.integers(1, 3)))
    return made


def scene(random: np.random.Generator) -> Scene:
    """One drawn scene."""
    width, height = SIZE
    small = random.integers(30, 220, (4, 6, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)
    plates, boxes = [], []
    count = 1 + int(random.random() < 0.4)
    for number in range(count):
        wide = float(random.uniform(100, 180))
        high = wide / 4.5 * float(random.uniform(0.85, 1.2))
        part = width / count
        x = number * part + float(random.uniform(0.03 * part, max(0.04 * part, part - wide - 10)))
        y = float(random.uniform(0.3, 0.85)) * (height - high)
        _car(image, (x, y, x + wide, y + high), random)
        boxes.append((x, y, wide, high))
    for x, y, wide, high in boxes:
        text = written(random)
        flat = plate(text, random)
        turn = np.deg2rad(random.uniform(-8, 8))
        middle = np.array([x + wide / 2, y + high / 2])
        half = np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]]) / 2
        around = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = half @ around + middle + random.uniform(-0.06, 0.06, (4, 2)) * high
        _lay(image, flat, corners)
        low, top = corners.min(axis=0), corners.max(axis=0)
        plates.append(Plate(text, (*low.tolist(), *top.tolist())))
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 0.9))))
    noise = random.standard_normal((height, width, 1), np.float32) * random.uniform(2, 9)
    dim = np.float32(random.uniform(0.6, 1.1))
    pixels = np.clip(np.asarray(image) * dim + noise.astype(np.float32), 0, 255).astype(np.uint8)
    return Scene(Image.fromarray(pixels), plates)


def _car(image: Image.Image, box: Corners, random: np.random.Generator) -> None:
    """A box with two lamps around where a plate will be."""
    pen = ImageDraw.Draw(image)
    colour = tuple(int(each) for each in random.integers(0, 256, 3))
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    pen.rectangle(
        (left - 0.25 * wide, top - 2.2 * high, right + 0.25 * wide, bottom + 0.8 * high), colour
    )
    for x in (left - 0.2 * wide, right + 0.08 * wide):
        pen.ellipse((x, top - 1.2 * high, x + 0.12 * wide, top - 0.5 * high), (250, 240, 200))


def _lay(image: Image.Image, flat: Image.Image, corners: np.ndarray) -> None:
    """The flat plate laid into the picture with its corners there (clockwise from top left)."""
    width, height = flat.size
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    low = np.floor(corners.min(axis=0)).astype(int)
    size = np.ceil(corners.max(axis=0)).astype(int) - low
    rows, values = [], []
    for (x, y), (u, v) in zip((corners - low).tolist(), source.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    way = tuple(np.linalg.solve(np.array(rows), np.array(values)).tolist())
    laid = flat.transform(
        (int(size[0]), int(size[1])), Image.Transform.PERSPECTIVE, way, Image.Resampling.BICUBIC
    )
    image.paste(laid, (int(low[0]), int(low[1])), laid)


def crop(one: Scene, number: int, random: np.random.Generator) -> bytes:
    """A plate cut out as a detector's box would, which is never quite right: a PNG."""
    left, top, right, bottom = one.plates[number].box
    wide, high = right - left, bottom - top
    off = random.uniform(-0.02, 0.10, 4) * np.array([wide, high, wide, high])
    box = (left - off[0], top - off[1], right + off[2], bottom + off[3])
    file = io.BytesIO()
    one.image.crop(tuple(round(each) for each in box)).save(file, "PNG")
    return file.getvalue()


def write_scenes(path: Path, scenes: Sequence[Scene]) -> None:
    """A zip with the images and a JSONL of their boxes."""
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for number, one in enumerate(scenes):
            archive.writestr(f"{number}.jpg", one.file)
            boxes = [{"label": "plate", "box": list(each.box)} for each in one.plates]
            lines.append(json.dumps({"image": f"{number}.jpg", "boxes": boxes}))
        archive.writestr("boxes.jsonl", "\n".join(lines))


def write_plates(path: Path, count: int, random: np.random.Generator) -> None:
    """A zip with plates that were cut out, and a CSV of what they say."""
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(("image", "text"))
    number = 0
    with zipfile.ZipFile(path, "w") as archive:
        while number < count:
            one = scene(random)
            for place, each in enumerate(one.plates):
                archive.writestr(f"{number}.png", crop(one, place, random))
                rows.writerow((f"{number}.png", each.text))
                number += 1
        archive.writestr("plates.csv", table.getvalue())
