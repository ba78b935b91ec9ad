"""What the task `face-recognition` is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.tasks.face_recognition.options import FaceDataOptions, FaceNet
from lmaas.tasks.spec import Judge, Role, Spec, Training

DETECTOR, EMBEDDER = "detector", "embedder"
"""Roles of a pipeline's parts."""
METRICS = {
    "loss": "in training, ArcFace's; for people who are not learned, the equal error rate that "
    "similarities would have if they were normally distributed",
    "eer": "equal error rate: where as large a share of one person's pairs is missed as of "
    "strangers' pairs is taken for one person",
    "rank1": "share of photos of known people whose nearest known photo is the right person's, "
    "and nearer than 99 % of strangers are to anybody",
    "stranger_pairs": "pairs of photos of two people that were compared",
    **{
        f"{name}_at_{rate}": text.format(share)
        for rate, share in {"0.1": "10", "0.01": "1", "0.001": "0.1", "0.0001": "0.01"}.items()
        for name, text in {
            "threshold": "the similarity that {} % of pairs of two people reach",
            "tar": "share of pairs of one person that reach the similarity that {} % of pairs of "
            "two people reach, too",
        }.items()
    },
}


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set: the least score of a face, and the most faces of an image, the largest.

    A model without a detector takes each image for one face with the score 1.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


SPEC = Spec(
    name="face-recognition",
    takes="an image file or a list of them; without a detector, of a face each",
    gives="faces: box, score, landmarks, and a vector that is near those of the same person",
    fields=("image",),
    rows_per_call=8,
    pipelines=("image-feature-extraction",),
    parameters=Parameters,
    metrics=METRICS,
    primary="tar_at_0.01",
    judge=Judge(measures="lmaas.tasks.face_recognition.verification:judged"),
    training=Training(
        does="tells people apart by their faces, those too whom it has not learned",
        options=FaceDataOptions,
        columns=("image", "label"),
        architectures={"facenet": FaceNet},
        augments="image",
    ),
    roles=(
        Role(name=DETECTOR, does="finds faces, and points in them", tasks=("object-detection",)),
        Role(
            name=EMBEDDER,
            does="makes a vector of each face",
            tasks=("face-recognition",),
        ),
    ),
)
