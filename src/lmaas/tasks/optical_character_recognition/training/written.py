"""Training images of lines and what is written there: pixels in a mapped file, texts as classes."""

import hashlib
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from PIL import Image

from lmaas.codecs import image as codec
from lmaas.codecs.limits import Limits
from lmaas.data.table import Table
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.tasks.optical_character_recognition.automaton import Automaton
from lmaas.tasks.optical_character_recognition.options import COLUMNS, HEIGHT, ReadingDataOptions
from lmaas.types import ImageSpec

LOOKED_AT: Final = 400
"""Of how many images sizes and colours are seen where a recipe leaves them open."""
WIDE_ENOUGH: Final = 0.98
"""The share of those that are no wider than an "auto" width."""
LARGEST_AUTO: Final = 1024
WIDTH_STEP: Final = 16
ROOM: Final = 1.25
"""So many times the steps that a text needs at least it gets where the width is left open."""
GREY: Final = 8
"""How far the channels of a grey image may differ: JPEG rounds."""
MOST_CHARACTERS: Final = 16_384


def normalised(text: str, options: ReadingDataOptions) -> str:
    """The text as it is learned: NFC, single blanks, and the case that the options say."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    match options.case:
        case "upper":
            return text.upper()
        case "lower":
            return text.lower()
        case "keep":
            return text


def texts_of(table: Table, column: str, options: ReadingDataOptions) -> list[str]:
    """The texts of a table, normalised. Raises InvalidInput, with the place, for an empty one."""
    return [normalised(text, options) for text in table.texts(column)]


def characters_of(texts: Sequence[str]) -> tuple[str, ...]:
    """All characters of texts, in order. Raises InvalidInput for more than there can be."""
    found = sorted(set().union(*map(set, texts)))
    if len(found) > MOST_CHARACTERS:
        raise InvalidInput(
            f"The texts have {len(found)} different characters; at most {MOST_CHARACTERS} are "
            "learned.",
            param="data",
        )
    return tuple(found)


def least_steps(text: Sequence[Any]) -> int:
    """How many steps a text takes at least: between two equal characters stands a blank."""
    return len(text) + sum(bool(a == b) for a, b in itertools.pairwise(text))


def spelled(
    table: Table,
    texts: Sequence[str],
    numbers: dict[str, int],
    steps: int,
    wanted: Automaton | None,
) -> list[list[int]]:
    """The classes of each text's characters.

    Raises InvalidInput, with the place, for a character that is not learned, for a text that is too
    long, and for one that has not the form that is wanted.
    """
    found = []
    for row, text in enumerate(texts):
        if unknown := sorted(set(text) - numbers.keys()):
            raise InvalidInput(
                f"{table.place(row)}: the text has {', '.join(map(repr, unknown[:10]))}, which the "
                "model has not learned.",
                hint="Its characters are those of the training texts, or the base's.",
                param="data",
            )
        classes = [numbers[character] for character in text]
        if least_steps(classes) > steps:
            raise InvalidInput(
                f"{table.place(row)}: the text takes {least_steps(classes)} steps; an input of "
                f"{steps * COLUMNS} pixels' width has {steps}.",
                hint=f"Give data.options.width, {COLUMNS} pixels for a step.",
                param="data",
            )
        if wanted is not None and not wanted.accepts(classes):
            raise InvalidInput(
                f"{table.place(row)}: {text[:100]!r} has not the form that data.options.pattern "
                "says.",
                param="data",
            )
        found.append(classes)
    return found


def spec_of(
    table: Table,
    column: str,
    options: ReadingDataOptions,
    layout: Literal["CHW", "HWC"],
    longest: int,
) -> ImageSpec:
    """The size and colour that the recipe says, or that the first images have. `longest` is how
    many steps the longest text takes at least."""
    height = HEIGHT if options.height == "auto" else options.height
    channels, width = options.channels, options.width
    if "auto" in (channels, width):
        rows = np.linspace(0, len(table) - 1, min(LOOKED_AT, len(table))).astype(int)
        seen = [opened(table, column, row) for row in rows.tolist()]
        if width == "auto":
            wide = [picture.width * height / picture.height for picture in seen]
            room = max(float(np.quantile(wide, WIDE_ENOUGH)), ROOM * longest * COLUMNS)
            whole = int(np.ceil(room / WIDTH_STEP)) * WIDTH_STEP
            width = min(max(whole, 2 * WIDTH_STEP), LARGEST_AUTO)
        small = np.stack([np.asarray(picture.resize((32, 32)), np.int16) for picture in seen])
        colour = bool((small.max(axis=3) - small.min(axis=3)).max() > GREY)
        channels = (3 if colour else 1) if channels == "auto" else channels
    assert width != "auto"
    assert channels != "auto"
    return ImageSpec(
        height=height, width=width, channels=channels, layout=layout, resize=options.resize
    )


def standardised(image: ImageSpec, pixels: np.ndarray, rows: np.ndarray) -> ImageSpec:
    """The spec with the mean and deviation of the training images, of all channels
    together."""
    part = np.asarray(pixels[rows[:: max(1, len(rows) // 2000)]], np.float64) / 255
    mean, std = float(part.mean()), float(part.std())
    return msgspec.structs.replace(image, mean=(round(mean, 4),), std=(max(round(std, 4), 0.01),))


def opened(table: Table, column: str, row: int) -> Image.Image:
    """An image of a table. Raises InvalidInput, with its name or place."""
    try:
        return codec.decode_whole(table.content(column, row), Limits())
    except (InvalidInput, PayloadTooLarge) as error:
        name = table.values(column, [row])[0]
        place = f"{table.place(row)}, {name[:200]}" if isinstance(name, str) else table.place(row)
        raise InvalidInput(f"{place}: {error.message}", param="data") from None


def pixels_of(table: Table, column: str, spec: ImageSpec, folder: Path) -> np.ndarray:
    """All images, (N, H, W, C) uint8, from a mapped file that is made once."""
    plain = msgspec.structs.replace(spec, layout="HWC", scale=1.0, mean=(0.0,), std=(1.0,))
    told = msgspec.json.encode((table.digest, column, plain))
    path = folder / f"{hashlib.sha256(told).hexdigest()}.lines"
    shape = (len(table), spec.height, spec.width, spec.channels)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{np.random.default_rng().integers(1 << 40):x}")
        try:
            pixels = np.memmap(part, np.uint8, "w+", shape=shape)
            for row in range(len(table)):
                picture = codec.in_channels(opened(table, column, row), plain)
                pixels[row] = codec.to_array(picture, plain, "uint8")
            pixels.flush()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    # As a plain array: numpy's own class for mapped files makes every access dearer.
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
