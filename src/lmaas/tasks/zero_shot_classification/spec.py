"""What the task `zero-shot-classification` is."""

import msgspec

from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set, as in Hugging Face pipelines.

    `candidate_labels` is a list, or one text with commas; a call without them is refused. The
    scores of all labels add up to 1, or with `multi_label` each is from 0 to 1 by itself.
    `hypothesis_template` has `{}` where the label stands.
    """

    candidate_labels: list[str] | str | None = None
    multi_label: bool | None = None
    hypothesis_template: str | None = None


SPEC = Spec(
    name="zero-shot-classification",
    takes="a text, or a list of texts, and the labels that may fit",
    gives="each label with its score, best first",
    fields=("text",),
    pipelines=("zero-shot-classification",),
    parameters=Parameters,
    metrics={"accuracy": "share of the pairs whose likeliest relation is the right one"},
    primary="accuracy",
    checkpoint=Checkpoint(
        endings=("ForSequenceClassification",),
        certain=True,
        label="entail",
        builder="lmaas.frameworks.encoder:build",
        loads="AutoModelForSequenceClassification",
        gives="class-scores",
        pairs=True,
    ),
)
