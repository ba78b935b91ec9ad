"""What the task `question-answering` is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from lmaas.tasks.spec import Checkpoint, Spec


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set, as in Hugging Face pipelines.

    `top_k` answers are given (1), of at most `max_answer_len` tokens (15). With
    `handle_impossible_answer` the empty answer is one of them.
    """

    top_k: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_answer_len: Annotated[int, Meta(ge=1, le=512)] | None = None
    handle_impossible_answer: bool | None = None


SPEC = Spec(
    name="question-answering",
    takes="a question and a context, or a list of them",
    gives="the part of the context that answers, with its score and place",
    fields=("question", "context"),
    pipelines=("question-answering",),
    parameters=Parameters,
    metrics={"exact_match": "share of the answers that begin and end where the right ones do"},
    primary="exact_match",
    checkpoint=Checkpoint(
        endings=("ForQuestionAnswering",),
        certain=True,
        builder="lmaas.frameworks.encoder:build",
        loads="AutoModelForQuestionAnswering",
        gives="spans",
        pairs=True,
    ),
)
