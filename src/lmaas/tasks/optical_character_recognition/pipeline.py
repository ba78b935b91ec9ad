"""Places that one model finds and another one reads: plates, labels, whole pages.

The detector looks at the whole image. Each place is cut out in the image's own pixels, one that
lies aslant as an upright rectangle, and the reader says what is written there. Texts of a detector
of text come in the order of reading, others the surest place first.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final, Protocol, cast

import msgspec
import numpy as np
from PIL import Image

from lmaas.codecs.drawing import drawn_text
from lmaas.codecs.image import cut_out
from lmaas.codecs.limits import Limits
from lmaas.codecs.rectify import rectified, sides
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Tensors
from lmaas.tasks.images import read_images
from lmaas.tasks.labels import Box
from lmaas.tasks.optical_character_recognition import lines
from lmaas.tasks.optical_character_recognition.answers import body_of
from lmaas.tasks.optical_character_recognition.lattice import DIGITS, Reading, automaton_of
from lmaas.tasks.optical_character_recognition.parameters import pattern_of, read_parameters
from lmaas.tasks.optical_character_recognition.spec import DETECTOR, READER, SPEC
from lmaas.tasks.pipelines import (
    CROPS_AT_ONCE,
    BoundPart,
    Conversation,
    FindsPlaces,
    Places,
    Run,
    SeesImages,
)
from lmaas.types import Part, Payload, Signature

MOST_TEXTS: Final = 500
"""So many places of one image are read, the surest ones; its answer has no others."""
MARGIN: Final = 0.05
"""What is added to a box on each side, as a share of it: a plate's box may cut off its edge."""
UPRIGHT: Final = 1.5
"""A quadrilateral that is so many times as high as wide is a line that stands, and is turned."""
SAME_LINE: Final = 0.5
"""Places overlap in height by this share of the lower one where they are of one line."""
MOST_PIXELS: Final = 8 << 20
"""Of the crops of one turn, as the reader takes them."""


class Placed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text, its score and those of its characters; where it is, and how sure that place is.

    `corners` are those of a quadrilateral, clockwise from its own top left, of a detector that
    finds such.
    """

    text: str
    score: float
    characters: tuple[float, ...]
    box: Box
    detection_score: float
    corners: list[list[float]] | None = None


class Reads(SeesImages, Protocol):
    """What a reader does here."""

    def readings(self, outputs: Tensors, signature: Signature, pattern: str) -> list[Reading]:
        """The text of each image of a batch."""
        ...


class Crop(msgspec.Struct, frozen=True):
    """One place of an image: its number among all, and how wide the reader takes it."""

    number: int
    width: int


def check_parts(parts: Mapping[str, Part]) -> Signature:
    """The labels of the detector; what it finds is read, whatever it is."""
    if parts[READER].signature.reading is None:
        raise InvalidInput("The reader is no model that reads a line.", param=f"parts.{READER}")
    detector = parts[DETECTOR].signature
    return Signature(
        inputs=(), outputs=(), batch=False, labels=detector.labels, detection=detector.detection
    )


def converse(payload: Payload, parts: Mapping[str, BoundPart], limits: Limits) -> Conversation:
    """See `pipelines.PipelineTask`."""
    call = read_images(payload, limits, most=SPEC.rows_per_call)
    parameters = read_parameters(call.parameters)
    detector, reader = parts[DETECTOR], parts[READER]
    pattern = pattern_of(parameters, reader.signature)
    if pattern:
        assert reader.signature.reading is not None
        automaton_of(reader.signature.reading, pattern)
    finder = cast(FindsPlaces, detector.task)
    batch = finder.batch_of(call.images, detector.signature)
    outputs = yield Run(part=DETECTOR, batch=batch)
    found = finder.places(
        outputs, batch, detector.signature, threshold=parameters.detection_threshold
    )
    answers = []
    for image, places in zip(call.images, found, strict=True):
        texts = yield from _read(image, places, reader, pattern)
        least = parameters.threshold or 0.0
        answers.append([each for each in texts if each.text and each.score >= least])
    return body_of(answers, single=call.single, as_text=parameters.as_text)


def drawn() -> Payload:
    """A line of text; all places, so that the reader is asked too."""
    return Payload(body=drawn_text(), parameters={"detection_threshold": 0.0})


def _read(
    image: Image.Image, places: Places, reader: BoundPart, pattern: str
) -> Generator[Run, Tensors, list[Placed]]:
    """The texts of an image's places. Lines of one width are asked about together."""
    task = cast(Reads, reader.task)
    count = min(len(places.labels), MOST_TEXTS)
    crops = [
        Crop(number, lines.width_of(_size(places, number), reader.signature))
        for number in range(count)
    ]
    found: dict[int, Reading] = {}
    for some in _slices(sorted(crops, key=lambda crop: crop.width), reader.signature):
        pictures = (_cut(image, places, crop.number) for crop in some)
        batch = task.batch_of(pictures, reader.signature)
        outputs = yield Run(part=READER, batch=batch)
        readings = task.readings(outputs, reader.signature, pattern)
        found |= {crop.number: each for crop, each in zip(some, readings, strict=True)}
    order = range(count) if places.corners is None else in_order(places.boxes[:count])
    return [_placed(places, number, found[number]) for number in order]


def _slices(crops: list[Crop], signature: Signature) -> list[list[Crop]]:
    """The crops, sorted by width, in slices of one width and of so many pixels."""
    assert signature.image is not None
    found: list[list[Crop]] = []
    for crop in crops:
        pixels = crop.width * signature.image.height
        most = max(1, min(CROPS_AT_ONCE, MOST_PIXELS // pixels))
        if not found or found[-1][0].width != crop.width or len(found[-1]) >= most:
            found.append([])
        found[-1].append(crop)
    return found


def _size(places: Places, number: int) -> tuple[int, int]:
    """Width and height of a place as it will be read."""
    if places.corners is None:
        left, top, right, bottom = places.boxes[number].tolist()
        return max(1, round(right - left)), max(1, round(bottom - top))
    width, height = sides(places.corners[number])
    return (height, width) if height >= UPRIGHT * width else (width, height)


def _cut(image: Image.Image, places: Places, number: int) -> Image.Image:
    if places.corners is None:
        return cut_out(image, places.boxes[number].tolist(), MARGIN)
    found = rectified(image, places.corners[number])
    if found.height >= UPRIGHT * found.width:
        return found.transpose(Image.Transpose.ROTATE_90)
    return found


def _placed(places: Places, number: int, reading: Reading) -> Placed:
    corners: Any = None
    if places.corners is not None:
        corners = np.round(places.corners[number], 2).tolist()
    return Placed(
        text=reading.text,
        score=reading.score,
        characters=reading.characters,
        box=Box(*places.boxes[number].tolist()),
        detection_score=round(float(places.scores[number]), DIGITS),
        corners=corners,
    )


def in_order(boxes: np.ndarray) -> list[int]:
    """The numbers of boxes (n, 4) as one reads: lines from the top, in each from the left.

    Boxes are of one line where they overlap the line's first one in height.
    """
    middle = (boxes[:, 1] + boxes[:, 3]) / 2
    rows: list[list[int]] = []
    for number in np.argsort(middle, kind="stable").tolist():
        top, bottom = boxes[number, 1], boxes[number, 3]
        if rows:
            first = boxes[rows[-1][0]]
            shared = min(bottom, first[3]) - max(top, first[1])
            if shared >= SAME_LINE * max(min(bottom - top, first[3] - first[1]), 1e-6):
                rows[-1].append(number)
                continue
        rows.append([number])
    return [number for row in rows for number in sorted(row, key=lambda each: boxes[each, 0])]
