"""Tasks of encoder-decoders that read texts, as their kit sees them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.runtime.sequence.calls import SequenceCall, SequenceResult, Written
from lmaas.tasks import text_layout
from lmaas.tasks.text_layout import TextLayout
from lmaas.training.encoder_decoder import EOS
from lmaas.training.pairs import learn_vocabulary
from lmaas.types import Answer, Payload, SequenceSpec, Signature


class Example(msgspec.Struct):
    """A task, what it takes, the field of its answer, and a column of `records`."""

    task: str
    answer: str
    column: str


EXAMPLES: Final = (
    Example("translation", "translation_text", "translation_text"),
    Example("summarization", "summary_text", "summary"),
)
SIGNATURE: Final = Signature(
    inputs=(),
    outputs=(),
    sequence=SequenceSpec(
        architecture="M2M100",
        source="tokens",
        most_source=64,
        most_target=80,
        vocabulary_size=400,
        start=(EOS,),
        stop_token_ids=(EOS,),
    ),
)


def served(folder: Path) -> Path:
    """A folder with a tokenizer of bytes and the simplest layout."""
    learn_vocabulary(["plain words"], 300, folder / text_layout.TOKENIZER)
    text_layout.write(TextLayout(after=(EOS,)), folder)
    return folder


def echo(call: SequenceCall) -> SequenceResult:
    """What an engine gives that writes what it reads."""
    tokens = tuple(int(index) for index in call.source if 3 < index < 300)
    written = Written(tokens=tokens, finish="stop", logprob=-1.0)
    return SequenceResult(tag=call.tag, candidates=(written,) * call.decoding.returned)


def answered(
    conversation: Any, engine: Callable[[SequenceCall], SequenceResult] = echo
) -> tuple[Answer, list[SequenceCall]]:
    """The answer of a conversation, and all that was asked; the last that was asked comes first."""
    calls: list[SequenceCall] = []
    waiting: list[SequenceCall] = []
    try:
        turn = next(conversation)
        while True:
            waiting += turn.calls
            calls += turn.calls
            turn = conversation.send(engine(waiting.pop()) if waiting else None)
    except StopIteration as end:
        answer: Answer = end.value
        assert not waiting
        return answer, calls


def payload(inputs: Any, **more: Any) -> Payload:
    """A JSON call."""
    body = msgspec.json.encode({"inputs": inputs, **more})
    return Payload(body=body, media_type="application/json")
