"""What the task `summarization` is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.tasks.spec import Checkpoint, Judge, Spec


class GenerateParameters(msgspec.Struct, forbid_unknown_fields=True):
    """How a summary is written, as transformers' `generate` names it; all may be left out.

    Lengths count the token that an answer begins with, as there.
    """

    max_length: Annotated[int, Meta(ge=2)] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1)] | None = None
    min_length: Annotated[int, Meta(ge=0)] | None = None
    num_beams: Annotated[int, Meta(ge=1, le=16)] | None = None
    length_penalty: Annotated[float, Meta(ge=-10, le=10)] | None = None
    early_stopping: bool | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Meta(gt=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    no_repeat_ngram_size: Annotated[int, Meta(ge=0, le=100)] | None = None


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
