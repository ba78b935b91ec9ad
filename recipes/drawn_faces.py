"""Drawn people: who somebody is are 24 numbers; how a picture of them looks varies with each.

What is drawn is not like photographs, and no person's. It shows that a model learns to tell people
apart whom it has never seen, in spite of pose, light, expression, noise and what hides them.
"""

import io
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

NUMBERS: Final = 24
"""What an identity is made of, each from 0 to 1."""
DRAWN_AT: Final = 2
"""Faces are drawn so many times larger, and made smaller then."""
MARGIN: Final = 0.1
"""A crop has so much around its box on each side, as a pipeline's has (`lmaas.FaceSpec`)."""


class Scene(NamedTuple):
    """A PNG file, the boxes of its faces and who they are."""

    file: bytes
    boxes: list[tuple[float, float, float, float]]
    people: list[int]


def person(number: int) -> np.ndarray:
    """The numbers of one person; those of two people are unlike by chance alone."""
    return np.random.default_rng([11, number]).random(NUMBERS)


def crop(who: np.ndarray, random: np.random.Generator, side: int) -> Image.Image:
    """One picture of a face, `side` pixels square, cut out about as well as a detector does it."""
    large = side * DRAWN_AT
    canvas = _ground(random, (large, large))
    size = large / (1 + 2 * MARGIN) * random.uniform(0.92, 1.06)
    shift = random.uniform(-0.035, 0.035, 2) * large
    _face(canvas, who, random, (large / 2 + shift[0], large / 2 + shift[1]), size)
    return _photographed(canvas, random, (side, side))


def scene(people: list[int], random: np.random.Generator, size: tuple[int, int]) -> Scene:
    """A picture of several people, each with a face of its own place and size."""
    wide, high = size[0] * DRAWN_AT, size[1] * DRAWN_AT
    canvas = _ground(random, (wide, high))
    boxes = []
    for place, who in enumerate(people):
        room = wide / len(people)
        face = min(room * 0.92, high * 0.8) * random.uniform(0.65, 1.0)
        x = room * (place + 0.5) + random.uniform(-0.5, 0.5) * (room - face) * 0.8
        y = high / 2 + random.uniform(-0.5, 0.5) * (high - face) * 0.7
        box = _face(canvas, person(who), random, (x, y), face)
        boxes.append(tuple(side / DRAWN_AT for side in box))
    file = io.BytesIO()
    _photographed(canvas, random, size).save(file, "PNG")
    return Scene(file.getvalue(), boxes, people)  # type: ignore[arg-type]


def _ground(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A blurred ground of a few colours."""
    small = random.integers(30, 226, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _photographed(
    canvas: Image.Image, random: np.random.Generator, size: tuple[int, int]
) -> Image.Image:
    """Light from a side, what hides a part, blur and noise; made smaller."""
    image = canvas.resize(size, Image.Resampling.BOX)
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.8)))
    pixels = np.asarray(image, np.float32)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size) - 0.5
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + random.uniform(0, 0.45) * (x * np.cos(angle) + y * np.sin(angle))
    tint = random.uniform(0.9, 1.1, 3)
    pixels = pixels * light[..., None] * tint * random.uniform(0.75, 1.2)
    pixels += random.normal(0, random.uniform(2, 9), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * float(share)


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    told = Image.new("HSV", (1, 1), (int(hue * 255) % 256, int(saturation * 255), int(value * 255)))
    red, green, blue = told.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red), int(green), int(blue)


def _face(
    canvas: Image.Image,
    who: np.ndarray,
    random: np.random.Generator,
    middle: tuple[float, float],
    size: float,
) -> tuple[float, float, float, float]:
    """Draw a face whose larger side is about `size`; its box."""
    layer = Image.new("RGBA", canvas.size)
    pen = ImageDraw.Draw(layer)
    turn = random.uniform(-0.2, 0.2)
    yaw, pitch = random.uniform(-0.14, 0.14), random.uniform(-0.06, 0.06)
    wide = size * _between(0.33, 0.44, who[0])
    high = size * 0.5

    def at(x: float, y: float) -> tuple[float, float]:
        """A place of the face, in shares of its half width and half height, on the canvas."""
        x = x * (1 - abs(yaw)) + yaw * (1 - x * x)
        y = y + pitch * (1 - y * y)
        px, py = x * wide, y * high
        cos, sin = np.cos(turn), np.sin(turn)
        return middle[0] + px * cos - py * sin, middle[1] + px * sin + py * cos

    def oval(x: float, y: float, w: float, h: float, fill: tuple[int, int, int]) -> None:
        around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        pen.polygon([at(x + w * np.cos(t), y + h * np.sin(t)) for t in around], fill)

    def line(points: list[tuple[float, float]], fill: tuple[int, int, int], width: float) -> None:
        pen.line([at(*p) for p in points], fill, max(1, round(width * size)), joint="curve")

    tone = who[1]
    skin = _colour(
        _between(0.03, 0.09, who[2]), _between(0.25, 0.6, tone), _between(0.95, 0.4, tone)
    )
    dark = tuple(int(part * 0.72) for part in skin)
    shade = (dark[0], dark[1], dark[2])
    hair = _colour(
        _between(0.0, 0.15, who[3]), _between(0.15, 0.85, who[4]), _between(0.08, 0.85, who[5])
    )
    # Hair behind, ears, the face with its jaw, hair in front.
    oval(0, -0.12, 1.13, _between(0.9, 1.05, who[6]), hair)
    if who[6] > 0.55:
        for side in (-1, 1):
            pen.polygon(
                [
                    at(side * 1.12, -0.2),
                    at(side * 0.7, -0.2),
                    at(side * 0.75, 0.95),
                    at(side * 1.15, 0.9),
                ],
                hair,
            )
    ear = _between(0.1, 0.2, who[7])
    for side in (-1, 1):
        oval(side * 0.99, 0.0, ear * 0.7, ear, shade)
    jaw = _between(0.55, 0.95, who[8])
    around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = []
    for t in around:
        x, y = float(np.cos(t)), float(np.sin(t))
        outline.append(at(x * (1 if y < 0 else 1 - (1 - jaw) * y**1.5 * 0.8), y))
    pen.polygon(outline, skin)
    fringe = _between(-0.85, -0.45, who[9])
    parting = _between(-0.6, 0.6, who[10])
    pen.polygon(
        [
            at(-0.98, -0.35),
            at(-0.8, -0.75),
            at(-0.4, -0.98),
            at(0, -1.02),
            at(0.4, -0.98),
            at(0.8, -0.75),
            at(0.98, -0.35),
            at(parting, fringe),
        ],
        hair,
    )
    # Eyes, brows.
    apart = _between(0.3, 0.5, who[11])
    eye_y = _between(-0.2, 0.02, who[12])
    eye_w, eye_h = _between(0.13, 0.22, who[13]), _between(0.06, 0.12, who[14])
    openness = random.uniform(0.55, 1.1)
    iris = _colour(_between(0.05, 0.65, who[15]), 0.6, _between(0.25, 0.75, who[15] * 7 % 1))
    gaze = random.uniform(-0.3, 0.3)
    lift = random.uniform(-0.04, 0.05)
    brow = _between(0.012, 0.04, who[16])
    slope = _between(-0.07, 0.07, who[17])
    brow_y = eye_y - _between(0.14, 0.24, who[18]) - lift
    for side in (-1, 1):
        x = side * apart
        oval(x, eye_y, eye_w, eye_h * openness, (245, 245, 240))
        oval(x + gaze * eye_w, eye_y, eye_h * 0.85, min(eye_h, eye_h * openness), iris)
        oval(x + gaze * eye_w, eye_y, eye_h * 0.4, min(eye_h * 0.5, eye_h * openness), (15, 12, 10))
        line(
            [
                (x - side * eye_w * 1.1, brow_y + slope),
                (x, brow_y - 0.02),
                (x + side * eye_w * 1.2, brow_y - slope),
            ],
            hair,
            brow,
        )
    # Nose, mouth.
    long, broad = _between(0.18, 0.4, who[19]), _between(0.07, 0.2, who[20])
    tip = eye_y + 0.12 + long
    line([(0.03, eye_y + 0.05), (broad * 0.6, tip - 0.06)], shade, 0.012)
    oval(0, tip, broad, 0.055, shade)
    mouth_y = min(tip + _between(0.16, 0.3, who[21]), 0.78)
    mouth_w, lips = _between(0.2, 0.42, who[22]), _between(0.02, 0.07, who[23])
    smile, gape = random.uniform(-0.07, 0.1), max(0.0, random.uniform(-0.08, 0.09))
    red = _colour(_between(0.96, 1.02, who[2]), 0.55, _between(0.8, 0.45, tone))
    if gape:
        oval(0, mouth_y, mouth_w * 0.8, gape + lips, (60, 20, 20))
    for lip in (-1, 1):
        line(
            [(-mouth_w, mouth_y - smile), (0, mouth_y + lip * gape), (mouth_w, mouth_y - smile)],
            red,
            lips * 0.8,
        )
    # Beard and glasses are somebody's, as the rest.
    if who[8] * 13 % 1 > 0.68:
        for x in np.linspace(-0.6, 0.6, 9):
            line(
                [(x * jaw, 0.62 + 0.25 * (1 - abs(x))), (x * jaw, 0.8 + 0.2 * (1 - abs(x)))],
                hair,
                0.03,
            )
    if who[11] * 17 % 1 > 0.6:
        frame = _colour(who[12] * 5 % 1, 0.7, 0.25)
        wide_rim = max(1, round(0.014 * size))
        for side in (-1, 1):
            t = np.linspace(0, 2 * np.pi, 20)
            rim = [at(side * apart + 0.27 * np.cos(a), eye_y + 0.17 * np.sin(a)) for a in t]
            pen.line(rim, frame, wide_rim)
        line([(-apart + 0.27, eye_y), (apart - 0.27, eye_y)], frame, 0.014)
    if random.random() < 0.15:
        # A hand, a cup, a scarf: it hides a part of the face.
        x, y = random.uniform(-0.8, 0.8), random.choice([-0.8, 0.75])
        oval(
            x,
            y,
            random.uniform(0.15, 0.35),
            random.uniform(0.1, 0.25),
            tuple(random.integers(0, 256, 3).tolist()),
        )
    canvas.paste(layer, (0, 0), layer)
    mask = Image.new("L", canvas.size)
    ImageDraw.Draw(mask).polygon(outline, 255)
    found = ImageChops.invert(ImageChops.invert(mask)).getbbox()
    assert found is not None
    left, top, right, bottom = found
    return float(left), float(top), float(right), float(bottom)
