"""Objects that are found by one model and named by another: the pipelines of `object-detection`.

The detector finds boxes in the whole image; what lies in each box is cut out, in the image's own
pixels, and the classifier says what it is.
"""

from collections.abc import Generator, Mapping
from itertools import islice
from typing import Final, cast

import msgspec
from PIL.Image import Image

from lmaas.codecs.image import cut_out
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Tensors
from lmaas.tasks.images import read_images
from lmaas.tasks.labels import Box, Classified, Label
from lmaas.tasks.object_detection.parameters import read_parameters
from lmaas.tasks.object_detection.spec import CLASSIFIER, DETECTOR, SPEC
from lmaas.tasks.pipelines import (
    CROPS_AT_ONCE,
    MOST_CROPS,
    BoundPart,
    Classifies,
    Conversation,
    FindsPlaces,
    Places,
    Run,
)
from lmaas.types import Answer, Part, Payload, Signature

MOST_IMAGES: Final = SPEC.rows_per_call


def check_parts(parts: Mapping[str, Part]) -> Signature:
    """The detector's boxes with the classifier's labels."""
    labels = parts[CLASSIFIER].signature.labels
    if not labels:
        raise InvalidInput("The classifier has no labels.", param=f"parts.{CLASSIFIER}")
    return Signature(
        inputs=(),
        outputs=(),
        batch=False,
        labels=labels,
        detection=parts[DETECTOR].signature.detection,
    )


def converse(
    payload: Payload, parts: Mapping[str, BoundPart], signature: Signature, limits: Limits
) -> Conversation:
    """See `pipelines.PipelineTask`."""
    call = read_images(payload, limits, most=MOST_IMAGES)
    parameters = read_parameters(call.parameters, signature)
    if parameters.pixels:
        raise InvalidInput("A pipeline takes files of images, and no pixels.", param="pixels")
    detector = parts[DETECTOR]
    finder = cast(FindsPlaces, detector.task)
    batch = finder.batch_of(call.images, detector.signature)
    outputs = yield Run(part=DETECTOR, batch=batch)
    found = finder.places(
        outputs,
        batch,
        detector.signature,
        threshold=parameters.threshold,
        overlap=parameters.overlap,
    )
    answers = []
    for image, places in zip(call.images, found, strict=True):
        named = yield from _named(image, places, parts[CLASSIFIER])
        answers.append(sorted(named, key=lambda each: -each.score))
    return Answer(body=msgspec.json.encode(answers[0] if call.single else answers))


def _named(
    image: Image, places: Places, classifier: BoundPart
) -> Generator[Run, Tensors, list[Classified]]:
    seer, told = cast(Classifies, classifier.task), []
    every = zip(places.boxes.tolist(), places.scores.tolist(), places.labels, strict=True)
    rows = islice(every, MOST_CROPS)
    while some := list(islice(rows, CROPS_AT_ONCE)):
        crops = (cut_out(image, box) for box, _, _ in some)
        batch = seer.batch_of(crops, classifier.signature)
        outputs = yield Run(part=CLASSIFIER, batch=batch)
        classes = seer.classes(outputs, batch, classifier.signature)
        for (box, score, detected), (label, share) in zip(some, classes, strict=True):
            told.append(
                Classified(
                    label,
                    round(score * share, 6),
                    Box(*box),
                    detected=Label(detected, round(score, 6)),
                )
            )
    return told
