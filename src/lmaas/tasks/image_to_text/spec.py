"""What the task `image-to-text` is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.tasks.generate_parameters import GenerateParameters
from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set; `max_new_tokens` is that of `generate_parameters`, too."""

    max_new_tokens: Annotated[int, Meta(ge=1)] | None = None
    generate_parameters: GenerateParameters | None = None


SPEC = Spec(
    name="image-to-text",
    takes="an image file, or a list of them as base64",
    gives="what is written or seen in each image, as a text",
    fields=("image",),
    rows_per_call=8,
    pipelines=("image-to-text",),
    parameters=Parameters,
    metrics={"exact": "share of the images whose text is the expected one, letter for letter"},
    primary="exact",
    checkpoint=Checkpoint(
        endings=("VisionEncoderDecoderModel",),
        builder="lmaas.frameworks.sequence.checkpoint:build",
    ),
)
