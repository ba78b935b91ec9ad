"""How an encoder-decoder's answer is written, as callers say it; data alone."""

from typing import Annotated

import msgspec
from msgspec import Meta


class GenerateParameters(msgspec.Struct, forbid_unknown_fields=True):
    """How an answer is written, as transformers' `generate` names it; all may be left out.

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
