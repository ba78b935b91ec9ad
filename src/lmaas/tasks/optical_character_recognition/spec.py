"""What the task `optical-character-recognition` is."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from lmaas.tasks.optical_character_recognition.options import CnnCtc, ReadingDataOptions
from lmaas.tasks.spec import LOSS, Judge, Role, Spec, Training

DETECTOR, READER = "detector", "reader"
"""Roles of a pipeline's parts."""
NAME: Final = "optical-character-recognition"


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set: the form of the texts (see docs/ocr.md; "" any), the least score of a
    text, and of pipelines the least score of a place. `as_text` true gives one text for each image,
    in the shape of `image-to-text`.
    """

    pattern: Annotated[str, Meta(max_length=256)] | None = None
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    detection_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    as_text: bool = False


SPEC = Spec(
    name=NAME,
    takes="an image file of a line of text (a pipeline: of anything), or a list of them",
    gives="texts with the scores of their characters; a pipeline's with their places",
    fields=("image",),
    rows_per_call=8,
    pipelines=("image-to-text",),
    pipeline_parameters={"image-to-text": {"as_text": True}},
    parameters=Parameters,
    metrics=LOSS
    | {
        "exact": "share of the images whose text is right, letter for letter",
        "cer": "characters substituted, left out or added, by the characters that are there",
    },
    primary="exact",
    infers_outputs_are=True,
    judge=Judge(measures="lmaas.tasks.optical_character_recognition.score:measure"),
    training=Training(
        does="reads a line of text",
        options=ReadingDataOptions,
        columns=("image", "text"),
        architectures={"cnn-ctc": CnnCtc},
        augments="line",
    ),
    roles=(
        Role(
            name=DETECTOR,
            does="finds plates, labels or lines of text",
            tasks=("object-detection",),
        ),
        Role(name=READER, does="reads each of them", tasks=(NAME,)),
    ),
)
