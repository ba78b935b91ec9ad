"""What the task `image-classification` is."""

from typing import Literal

import msgspec

from lmaas.tasks.architectures import Mlp
from lmaas.tasks.image_classification.options import Cnn, ImageDataOptions, ResNet18, Vit
from lmaas.tasks.spec import CLASSES, Judge, Spec, Training


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set. `function_to_apply` as in Hugging Face pipelines."""

    top_k: int | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    pixels: bool | None = False


SPEC = Spec(
    name="image-classification",
    takes="an image file, or an array",
    gives="labels with scores, the likeliest first",
    fields=("image",),
    rows_per_call=8,
    pipelines=("image-classification",),
    parameters=Parameters,
    metrics=CLASSES,
    primary="accuracy",
    judge=Judge(measures="lmaas.tasks.labels:accuracy"),
    infers_outputs_are=True,
    training=Training(
        does="tells which class an image belongs to",
        options=ImageDataOptions,
        columns=("image", "label"),
        architectures={"cnn": Cnn, "mlp": Mlp, "resnet18": ResNet18, "vit": Vit},
        left_open=("mlp",),
        augments="image",
    ),
)
