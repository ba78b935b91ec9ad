"""What the task `zero-shot-image-classification` is."""

import msgspec

from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set, as in Hugging Face pipelines.

    `candidate_labels` is a list, or one text with commas; a call without them asks for vectors, at
    length 1, which `dimensions` cuts. `hypothesis_template` has `{}` where the label stands.
    """

    candidate_labels: list[str] | str | None = None
    hypothesis_template: str | None = None
    normalize: bool | None = None
    truncate: bool | None = False
    dimensions: int | None = None


SPEC = Spec(
    name="zero-shot-image-classification",
    takes="an image, and the labels that may fit",
    gives="each label with its score, best first; without labels, a vector for each image or text",
    fields=("image",),
    rows_per_call=8,
    pipelines=("zero-shot-image-classification", "feature-extraction"),
    embeds=("text", "image"),
    parameters=Parameters,
    metrics={"accuracy": "share of the images whose likeliest label is the right one"},
    primary="accuracy",
    checkpoint=Checkpoint(
        endings=("CLIPModel", "SiglipModel"), certain=True, builder="lmaas.frameworks.clip:build"
    ),
)
