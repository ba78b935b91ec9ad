"""What the task `translation` is."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmaas.tasks import generate_parameters
from lmaas.tasks.spec import LOSS, Checkpoint, Judge, Spec, Training
from lmaas.tasks.translation.options import EncoderDecoder, PairDataOptions


class GenerateParameters(generate_parameters.GenerateParameters, forbid_unknown_fields=True):
    """How each sentence is written. `num_return_sequences` gives so many candidates of each text;
    where no length is said, a sentence may be as long as the model writes.
    """

    num_return_sequences: Annotated[int, Meta(ge=1, le=16)] | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a call may set; `src_lang` and `tgt_lang` go together.

    `truncation` other than "do_not_truncate" is refused: a long text is cut at sentences and
    answered whole. `format` "html" translates what stands between tags.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None
    clean_up_tokenization_spaces: bool | None = None
    truncation: (
        Literal["do_not_truncate", "longest_first", "only_first", "only_second"] | bool | None
    ) = None
    format: Literal["text", "html"] | None = None
    generate_parameters: GenerateParameters | None = None


SPEC = Spec(
    name="translation",
    takes="a text, or a list of texts",
    gives="each text in the other language",
    fields=("text",),
    pipelines=("translation", "text2text-generation"),
    parameters=Parameters,
    metrics=LOSS
    | {
        "bleu": "BLEU of whole texts, 0 to 100 (sacrebleu, "
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp)",
        "chrf": "chrF2 of whole texts, 0 to 100 (sacrebleu, "
        "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no)",
        "exact": "share of the texts that are written exactly as the reference",
        "token_accuracy": "share of the tokens that follow from the right ones before them",
    },
    primary="chrf",
    judge=Judge(measures="lmaas.tasks.text_metrics:measure", most=100.0),
    training=Training(
        does="writes a text in another language",
        options=PairDataOptions,
        columns=("source", "target"),
        architectures={"encoder-decoder": EncoderDecoder},
        base_task="translation",
    ),
    checkpoint=Checkpoint(
        endings=(
            "M2M100ForConditionalGeneration",
            "MBartForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "MarianMTModel",
        ),
        builder="lmaas.frameworks.sequence.checkpoint:build",
    ),
)
