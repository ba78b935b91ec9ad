"""What the task `token-classification` is."""

from typing import Literal

import msgspec

from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set, as in Hugging Face pipelines.

    `aggregation_strategy` "simple" joins neighbours of one entity. `ignore_labels` are left out.
    """

    aggregation_strategy: Literal["none", "simple"] | None = None
    ignore_labels: list[str] | None = None


SPEC = Spec(
    name="token-classification",
    takes="a text, or a list of texts",
    gives="labels of tokens with their places, or of neighbours that belong together",
    fields=("text",),
    pipelines=("token-classification", "ner"),
    parameters=Parameters,
    metrics={"accuracy": "share of the tokens whose likeliest label is the right one"},
    primary="accuracy",
    checkpoint=Checkpoint(
        endings=("ForTokenClassification",),
        certain=True,
        builder="lmaas.frameworks.encoder:build",
        loads="AutoModelForTokenClassification",
        gives="token-scores",
    ),
)
