"""What is asked of a model that hears and what comes back, whatever protocol asked.

Doors (OpenAI, Hugging Face, the command line) translate their bodies into a `TranscribeRequest` and
a `Transcript` into their answers. This module knows no transport and no engine. Times are seconds
from the beginning of the sound.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmaas.types import Record

MAX_PROMPT_CHARS = 4096


class Detection(Record, frozen=True, kw_only=True):
    """How it is found out where somebody speaks.

    From a likelihood of `threshold` on (0 to 1) a frame is speech; speech ends where there is none
    for `silence_s`; `padding_s` before and after it belong to it.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    padding_s: Annotated[float, Meta(ge=0, le=5)] = 0.3
    silence_s: Annotated[float, Meta(gt=0, le=10)] = 0.5


class TranscribeRequest(Record, frozen=True, kw_only=True):
    """One sound to be written down; `audio` is the file as it came.

    `language` is a code (ISO 639-1), None: told by the model. With `translate` the text is English.
    `temperature` None: 0 first, then higher ones where the text looks wrong (Radford et al. 2022,
    section 4.5); a number: that one alone. `words` and `segments` ask for times, `logprobs` for one
    of each token. `cut_at_silence` has windows begin and end where nobody speaks, as `detection`
    finds; without, each begins where the text before it ends, one after the other. With
    `previous_text` the model is shown what it wrote before, one window after the other too. With
    `stream` pieces are sent as they come.
    """

    audio: bytes
    language: str | None = None
    translate: bool = False
    prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    beams: Annotated[int, Meta(ge=1, le=16)] | None = None
    words: bool = False
    segments: bool = False
    logprobs: bool = False
    cut_at_silence: bool = True
    detection: Detection = Detection()
    previous_text: bool = False
    stream: bool = False


class Word(Record, frozen=True, kw_only=True):
    """A word and when it is spoken. `probability` is the mean of its tokens'."""

    word: str
    start: float
    end: float
    probability: float | None = None


class Segment(Record, frozen=True, kw_only=True):
    """A stretch of speech. What was not measured is None; nothing is invented.

    `avg_logprob` is the mean of its tokens' natural-log probabilities, `compression_ratio` that of
    its text by zlib, `no_speech_prob` the model's own probability that nobody speaks.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None


class SpokenToken(msgspec.Struct, frozen=True, array_like=True):
    """A token of the text, its bytes and its natural-log probability."""

    token: str
    raw: bytes
    logprob: float


class Transcript(Record, frozen=True, kw_only=True):
    """A sound as text. `language` is a code, None where the model does not tell languages apart.

    Lists that were not asked for are None.
    """

    text: str
    duration: float
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    segments: tuple[Segment, ...] | None = None
    words: tuple[Word, ...] | None = None
    logprobs: tuple[SpokenToken, ...] | None = None
