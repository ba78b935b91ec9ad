"""What the task `object-detection` is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.tasks.object_detection.options import CenterNet, DetectionDataOptions
from lmaas.tasks.spec import Checkpoint, Judge, Role, Spec, Training

DETECTOR, CLASSIFIER = "detector", "classifier"
"""Roles of a pipeline's parts."""

METRICS = {
    "loss": "what training makes smaller, a mean over the images",
    "map": "COCO's mean average precision, over overlaps from 0.5 to 0.95",
    "map50": "mean average precision at an overlap of 0.5",
}


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set: the least score of a box, how far boxes of a class may overlap (where
    the model's head has such a limit), and whether `inputs` are arrays of pixels.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    overlap: Annotated[float, Meta(gt=0, le=1)] | None = None
    pixels: bool | None = False


SPEC = Spec(
    name="object-detection",
    takes="an image file, a list of them, or an array",
    gives="boxes with labels and scores, in pixels of the upright image, the surest first",
    fields=("image",),
    rows_per_call=8,
    pipelines=("object-detection",),
    parameters=Parameters,
    metrics=METRICS,
    primary="map",
    judge=Judge(measures="lmaas.tasks.object_detection.judged:measure"),
    training=Training(
        does="tells where in an image which objects are",
        options=DetectionDataOptions,
        columns=("image", "boxes"),
        architectures={"centernet": CenterNet},
        augments="boxes",
        base_task="object-detection",
    ),
    checkpoint=Checkpoint(
        endings=("ForObjectDetection",), certain=True, builder="lmaas.frameworks.detector:build"
    ),
    roles=(
        Role(name=DETECTOR, does="finds objects", tasks=("object-detection",)),
        Role(
            name=CLASSIFIER,
            does="says what each of them is: its labels are the pipeline's",
            tasks=("image-classification",),
        ),
    ),
)
