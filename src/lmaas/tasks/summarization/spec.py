"""What the task `summarization` is."""

import msgspec

from lmaas.tasks.generate_parameters import GenerateParameters
from lmaas.tasks.spec import Checkpoint, Judge, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set. `truncation` other than "do_not_truncate" is refused: nothing of a text
    is left out. `clean_up_tokenization_spaces` too, unless it is false."""

    clean_up_tokenization_spaces: bool | None = None
    truncation: str | None = None
    generate_parameters: GenerateParameters | None = None


SPEC = Spec(
    name="summarization",
    takes="a text, or a list of texts",
    gives="a summary of each text",
    fields=("text",),
    rows_per_call=16,
    pipelines=("summarization",),
    parameters=Parameters,
    metrics={"exact": "share of the texts whose summary is the expected one, word for word"},
    primary="exact",
    judge=Judge(measures="lmaas.tasks.text_metrics:measure"),
    checkpoint=Checkpoint(
        endings=(
            "BartForConditionalGeneration",
            "PegasusForConditionalGeneration",
            "T5ForConditionalGeneration",
        ),
        builder="lmaas.frameworks.sequence.checkpoint:build",
    ),
)
