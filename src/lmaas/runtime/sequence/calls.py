"""What a task asks of an encoder-decoder, and what it is given back.

A request of such a task is a conversation with the model: it asks for sequences, is told each as it
is complete, and may ask for more (the next window of a sound, a second try). It knows no engine;
the worker runs the sequences of all requests together, step by step.
"""

from collections.abc import Generator, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.generation_types import Delta
from lmaas.tasks.base import Task
from lmaas.types import Answer, Payload, Record, Signature


class Decoding(Record, frozen=True, kw_only=True):
    """How one sequence is written. `temperature` 0 is greedy, or with `beams` a beam search.

    `prompt` are the decoder's first tokens, all of which count towards `max_tokens` and
    `min_tokens`. The last `counted` of them count as written where beams are compared by length, as
    transformers counts a `forced_bos_token_id`: a task that puts the language there says 1. Of the
    candidates of a beam search the best `returned` are given back. `length_penalty`, `early_stop`,
    `repetition_penalty` and `no_repeat_ngram` mean what they mean in transformers' `generate`.
    `forced_last` is the last token where `max_tokens` is reached. `timestamps` is the id of the
    first time token: such tokens keep Whisper's rules then, and the first one says at most
    `most_first_timestamp` steps. `watched` tokens are measured at the first place of the answer.
    `attention` and `scores` ask for where the decoder looked and for the log probability of each
    token.
    """

    prompt: tuple[int, ...]
    counted: int = 0
    max_tokens: int
    min_tokens: int = 0
    beams: int = 1
    returned: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    length_penalty: float = 1.0
    early_stop: bool = False
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    forced_last: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    timestamps: int | None = None
    most_first_timestamp: int | None = None
    watched: tuple[int, ...] = ()
    attention: bool = False
    scores: bool = False


class SequenceCall(msgspec.Struct, frozen=True, kw_only=True):
    """One source and how it is decoded.

    `source` is (S,) int64 token ids, or (bins, frames) float32 features of a sound, or (3, H, W)
    float32 pixels. Calls of one request with the same array `source` (the same object) are encoded
    once. `tag` is the task's own, given back with the result. With `stream` the task hears of every
    token at once, not of the complete sequence alone.
    """

    tag: Any
    source: np.ndarray
    decoding: Decoding
    stream: bool = False


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate: its tokens without the prompt, without the stop token.

    `logprob` is the sum of the tokens' natural-log probabilities, the stop token's included;
    `scores` has one for each token where asked for. They are the model's own, over its whole
    vocabulary, before anything is suppressed; in a beam search with a `repetition_penalty`, those
    that it is made by.
    """

    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]
    logprob: float
    scores: tuple[float, ...] = ()


class SequenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """A complete sequence, its candidates from the best on; or what went wrong with it alone.

    `source_tokens` were read. `watched` are the probabilities of the tokens in `Decoding.watched`
    at the first place of the answer, before anything was suppressed (Whisper's "no speech" and its
    languages). `attention` is (heads, tokens of the prompt and the answer, source positions): where
    the alignment heads looked; only where asked for.
    """

    tag: Any
    candidates: tuple[Written, ...] = ()
    source_tokens: int = 0
    watched: tuple[float, ...] = ()
    attention: np.ndarray | None = None
    error: BaseException | None = None


class SequencePiece(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a streamed sequence has gained."""

    tag: Any
    tokens: tuple[int, ...]
    scores: tuple[float, ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a request does next: sequences that it asks for, and pieces of its answer to be sent.

    While sequences are not complete, a turn may be empty. With none left and none asked for, the
    conversation is sent None at once, and goes on.
    """

    calls: Sequence[SequenceCall] = ()
    pieces: Sequence[Delta] = ()


Conversation = Generator[Turn, SequenceResult | SequencePiece | None, Answer]
"""One request: it yields what it does next, is sent what was written, and returns its answer.

The first turn may take long (a sound is decoded in it) and runs beside the engine; the others are
short. Whoever closes it cancels it. It raises InvalidInput as `Task.read` does.
"""


class SequenceTask(Task, Protocol):
    """A task whose models are encoder-decoders."""

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Answer one request body."""
        ...
