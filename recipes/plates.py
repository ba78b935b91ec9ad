"""Licence plates: found by one model, read by another, served as one.

    python recipes/plates.py [--framework pytorch|keras|tensorflow] [--quick] [--home DIR]

Scenes of 480 x 288 pixels have one or two plates of drawn letters, seen aslant, blurred and noisy,
on cars that are boxes. A detector learns 1,200 scenes (JSONL in a zip), a reader 6,000 plates that
are cut out of others (CSV in a zip), both from nothing. Together they become the model `plates`:
detector -> crop -> reader. It is served and asked for 200 scenes that no run saw, by Hugging Face's
own client, with the form that plates have (`AA00AA` or `AA000A`): so O and 0, I and 1, which look
alike, are told apart by where they stand. A picture with what was read is written. Exit code 0
only when 95 % of the plates are found and read letter for letter. With --quick, little data and few
rounds prove the way and not the result. `--framework` is the reader's. Needs `lmaas[train]`.
"""

import argparse
import csv
import io
import json
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from huggingface_hub import InferenceClient
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lmaas.client import Client
from lmaas.codecs.drawing import draw
from lmaas.codecs.marks import Mark
from proof import check, main, say, train

SIZE: Final = (480, 288)
PATTERN: Final = "AA00AA|AA000A"
FORMS: Final = ("AA 00 AA", "AA 000 A")
"""What the texts are, and how they stand on a plate: gaps are not read."""
CHOICES: Final = {"A": "ABCDEFGHIJKLMNOPRSTUVWXYZ", "0": "0123456789"}
"""No Q, as on most plates: nothing but a stroke tells it from an O."""
SCENES, SCENES_QUICK = 1200, 96
PLATES, PLATES_QUICK = 6000, 160
HELD, HELD_QUICK = 200, 12
EPOCHS: Final = 24
LEAST, LEAST_QUICK = 0.95, 0.3
"""The share of the plates that must be found and read letter for letter; with --quick, found."""
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
        wide = float(random.uniform(120, 200))
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
        plates.append(Plate(text.replace(" ", ""), (*low.tolist(), *top.tolist())))
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 0.8))))
    noise = random.standard_normal((height, width, 1), np.float32) * random.uniform(2, 8)
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


def framework() -> str:
    """The one that the reader is asked for in; the other options are `proof.main`'s."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--framework", default="pytorch")
    given, sys.argv[1:] = parser.parse_known_args()
    return str(given.framework)


def shares(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    both = max(0.0, right - left) * max(0.0, bottom - top)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (sum(areas) - both)


def ask(client: InferenceClient, file: bytes) -> list[Plate]:
    """What the pipeline says about a picture, in the shape that the stock client knows."""
    return [
        Plate(str(each["text"]), (each.box.xmin, each.box.ymin, each.box.xmax, each.box.ymax))
        for each in client.object_detection(file)
    ]


def measure(found: Sequence[list[Plate]], held: Sequence[Scene]) -> dict[str, float]:
    """The shares of the plates that are found, and that are found and read letter for letter; and
    how many places are none, by the number of plates."""
    count = seen = right = spare = 0
    for places, one in zip(found, held, strict=True):
        left = list(places)
        for each in one.plates:
            count += 1
            best = max(left, key=lambda place: shares(place.box, each.box), default=None)
            if best is not None and shares(best.box, each.box) >= NEAR:
                left.remove(best)
                seen += 1
                right += best.text == each.text
        spare += len(left)
    return {"found": seen / count, "exact": right / count, "spare": spare / count}


def learn(client: Client, folder: Path, quick: bool, reader: str) -> float:
    """Detector and reader trained on drawn data; the seconds that it took."""
    random = np.random.default_rng(7)
    scenes = [scene(random) for _ in range(SCENES_QUICK if quick else SCENES)]
    write_scenes(folder / "scenes.zip", scenes)
    write_plates(folder / "plates.zip", PLATES_QUICK if quick else PLATES, random)
    small = {"widths": [8, 16, 24, 32], "head": 16} if quick else {}
    began = time.perf_counter()
    job = train(
        client,
        name="plate-detector",
        task="object-detection",
        data={
            "train": str(folder / "scenes.zip"),
            "validation": 0.05,
            "options": {"width": 160, "height": 96},
        },
        model={"options": small},
        epochs=24 if quick else 12,
        batch_size=8 if quick else 16,
        optimizer={
            "name": "adamw",
            "learning_rate": 0.006 if quick else 0.003,
            "weight_decay": 0.0001,
        },
        schedule={"name": "cosine", "warmup": 0.05},
        early_stopping=None,
    )
    say(f"  the detector: {job.progress['step']} steps, {time.perf_counter() - began:.0f} s")
    middle = time.perf_counter()
    job = train(
        client,
        name="plate-reader",
        task="optical-character-recognition",
        framework=reader,
        data={
            "train": str(folder / "plates.zip"),
            "validation": 0.05,
            "options": {
                "width": 160,
                "height": 32,
                "channels": 1,
                "resize": "stretch",
                "pattern": PATTERN,
            },
        },
        model={"options": {"widths": [8, 16, 16, 16], "width": 16} if quick else {}},
        epochs=4 if quick else EPOCHS,
        batch_size=16 if quick else 32,
        optimizer={"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.0001},
        schedule={"name": "cosine", "warmup": 0.05},
        clip_norm=5.0,
        early_stopping=None,
        augmentation=[
            {"name": "perspective", "p": 0.6, "options": {"strength": 0.08}},
            {"name": "colour", "p": 0.5},
        ],
    )
    say(f"  the reader: {job.progress['step']} steps, {time.perf_counter() - middle:.0f} s")
    return time.perf_counter() - began


def prove(client: Client, folder: Path, quick: bool) -> int:
    """Both models learned, one made of them, and what it reads."""
    took = learn(client, folder, quick, READER)
    version = client.make_pipeline(
        "plates",
        task="optical-character-recognition",
        parts={"detector": "plate-detector", "reader": "plate-reader"},
    )
    parts = ", ".join(f"{part.role} {part.model}" for part in version.manifest.parts)
    say(f"  {version.ref} is made of {parts}")
    random = np.random.default_rng(8)
    held = [scene(random) for _ in range(HELD_QUICK if quick else HELD)]
    caller = InferenceClient(model=f"{client.url}/models/plates", token=client.key)
    files = [one.file for one in held]
    caller.object_detection(files[0])
    began = time.perf_counter()
    found = [ask(caller, file) for file in files]
    call_ms = (time.perf_counter() - began) * 1000 / len(files)
    told = measure(found, held)
    say(
        f"  {len(held)} scenes that no run saw: {told['found']:.3f} of the plates found, "
        f"{told['exact']:.3f} read letter for letter, {told['spare']:.3f} places that are none; "
        f"{call_ms:.1f} ms a call"
    )
    marks = [Mark(each.box, each.text, "plate") for each in found[0]]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_bytes(draw(files[0], marks, ".png"))
    say(f"  what it read in the first one: {PICTURE}")
    form = re.compile("[A-Z]{2}[0-9]{2}[A-Z]{2}|[A-Z]{2}[0-9]{3}[A-Z]")
    texts = [each.text for places in found for each in places]
    wrong = check("all texts have the form of a plate", all(map(form.fullmatch, texts)))
    lines = caller.image_to_text(files[0])
    same = str(lines["text"]) == found[0][0].text if found[0] else not lines
    wrong += check("image_to_text says the same", same)
    if quick:
        return wrong + check("plates are found", told["found"] >= LEAST_QUICK)
    say(f"  both learned in {took:.0f} s")
    return wrong + check(f"{LEAST:.0%} of the plates are read", told["exact"] >= LEAST)


if __name__ == "__main__":
    READER = framework()
    sys.exit(main(__doc__, prove))
