"""What the task `embedding` is."""

import msgspec

from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a JSON call may set, beside `inputs` or under `parameters`."""

    normalize: bool | None = None
    truncate: bool | None = False
    dimensions: int | None = None


SPEC = Spec(
    name="embedding",
    takes="a text, a list of texts, or a sentence to compare with others",
    gives="a vector for each text, or the similarity of each sentence",
    fields=("text",),
    pipelines=("feature-extraction", "sentence-similarity"),
    embeds=("text",),
    parameters=Parameters,
    metrics={"cosine": "mean cosine similarity of the vectors to the expected ones"},
    primary="cosine",
    checkpoint=Checkpoint(
        endings=("Model",), files=("modules.json",), builder="lmaas.frameworks.encoder:build"
    ),
)
