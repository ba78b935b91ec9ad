"""What the task `text-classification` is."""

from typing import Literal

import msgspec

from lmaas.tasks.spec import CLASSES, Judge, Several, Spec, Training
from lmaas.tasks.text_classification.options import (
    COMPARED,
    Bag,
    Compared,
    TextDataOptions,
    Transformer,
)


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set; `top_k` None gives all labels.

    `function_to_apply` as in Hugging Face pipelines.
    """

    top_k: int | None = None
    truncation: bool | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


SPEC = Spec(
    name="text-classification",
    takes="a text, or a list of texts",
    gives="labels with scores for each text, the likeliest first",
    fields=("text",),
    pipelines=("text-classification",),
    parameters=Parameters,
    metrics=CLASSES,
    primary="accuracy",
    judge=Judge(measures="lmaas.tasks.labels:accuracy"),
    training=Training(
        does="tells which class a text belongs to",
        options=TextDataOptions,
        columns=("text", "label"),
        architectures={COMPARED: Compared, "bag": Bag, "transformer": Transformer},
        left_open=("bag",),
        several=Several(architecture=COMPARED, framework="pytorch", held_out=True),
        augments="text",
        base_task="embedding",
    ),
)
