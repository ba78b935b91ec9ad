"""A transcript as OpenAI's clients read it: JSON, plain text, subtitles, events of a stream."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from lmaas.http import sse
from lmaas.http.audio_form import Asked
from lmaas.http.exchange import JSON
from lmaas.http.openai_types import finite
from lmaas.subtitles import srt, vtt
from lmaas.transcription_types import Segment, SpokenToken, Transcript

TEXT: Final = b"text/plain; charset=utf-8"
VTT: Final = b"text/vtt; charset=utf-8"


class DurationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used: the length of the sound."""

    seconds: float
    type: Literal["duration"] = "duration"


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the text, its natural-log probability and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TranscriptionJson(msgspec.Struct, frozen=True, kw_only=True):
    """The text; `logprobs` where they were asked for."""

    text: str
    logprobs: list[TokenLogprob] | msgspec.UnsetType = msgspec.UNSET
    usage: DurationUsage


class VerboseSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of speech; `seek` is where it begins in hundredths of a second."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word and when it is spoken."""

    word: str
    start: float
    end: float


class TranscriptionVerbose(msgspec.Struct, frozen=True, kw_only=True):
    """The text with all that was measured. Lists that were not asked for are left out."""

    task: Literal["transcribe", "translate"]
    language: str | None
    duration: float
    text: str
    segments: list[VerboseSegment] | msgspec.UnsetType = msgspec.UNSET
    words: list[VerboseWord] | msgspec.UnsetType = msgspec.UNSET
    usage: DurationUsage


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed text. `done` is an extension: the share of the sound that is heard."""

    delta: str
    done: float | msgspec.UnsetType = msgspec.UNSET
    type: Literal["transcript.text.delta"] = "transcript.text.delta"


class TextDone(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a stream: the whole text.

    `transcript` is an extension, for formats other than json and text: all that was heard.
    """

    text: str
    transcript: Transcript | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[TokenLogprob] | msgspec.UnsetType = msgspec.UNSET
    usage: DurationUsage
    type: Literal["transcript.text.done"] = "transcript.text.done"


def whole(transcript: Transcript, asked: Asked, language: str | None) -> tuple[bytes, bytes]:
    """Body and content type of an answer; `language` is what the language is called."""
    match asked.format:
        case "text":
            return f"{transcript.text}\n".encode(), TEXT
        case "srt":
            return srt(transcript.segments or ()).encode(), TEXT
        case "vtt":
            return vtt(transcript.segments or ()).encode(), VTT
        case "verbose_json":
            return msgspec.json.encode(_verbose(transcript, language)), JSON
        case _:
            return (
                msgspec.json.encode(
                    TranscriptionJson(
                        text=transcript.text,
                        logprobs=_logprobs(transcript.logprobs),
                        usage=_usage(transcript),
                    )
                ),
                JSON,
            )


def delta(piece: str, share: float) -> bytes:
    """A piece as an event."""
    return _event(TextDelta(delta=piece, done=round(share, 3) if share else msgspec.UNSET))


def done(transcript: Transcript, asked: Asked) -> bytes:
    """The end as an event."""
    return _event(
        TextDone(
            text=transcript.text,
            transcript=msgspec.UNSET if asked.format in ("json", "text") else transcript,
            logprobs=_logprobs(transcript.logprobs),
            usage=_usage(transcript),
        )
    )


def _verbose(transcript: Transcript, language: str | None) -> TranscriptionVerbose:
    return TranscriptionVerbose(
        task=transcript.task,
        language=language,
        duration=transcript.duration,
        text=transcript.text,
        segments=msgspec.UNSET
        if transcript.segments is None
        else [_segment(place, each) for place, each in enumerate(transcript.segments)],
        words=msgspec.UNSET
        if transcript.words is None
        else [
            VerboseWord(word=each.word, start=each.start, end=each.end) for each in transcript.words
        ],
        usage=_usage(transcript),
    )


def _segment(place: int, segment: Segment) -> VerboseSegment:
    """Only for what was measured: the door refuses the format for other models."""
    measured = (
        segment.temperature, segment.avg_logprob, segment.compression_ratio, segment.no_speech_prob
    )  # fmt: skip
    assert None not in measured, segment
    numbers: dict[str, Any] = {
        "temperature": segment.temperature,
        "avg_logprob": finite(segment.avg_logprob),
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }
    return VerboseSegment(
        id=place,
        seek=int(segment.start * 100),
        start=segment.start,
        end=segment.end,
        text=segment.text,
        tokens=segment.tokens,
        **numbers,
    )


def _usage(transcript: Transcript) -> DurationUsage:
    return DurationUsage(seconds=transcript.duration)


def _logprobs(spoken: Sequence[SpokenToken] | None) -> list[TokenLogprob] | msgspec.UnsetType:
    if spoken is None:
        return msgspec.UNSET
    return [
        TokenLogprob(token=each.token, logprob=finite(each.logprob), bytes=list(each.raw))
        for each in spoken
    ]


def _event(value: TextDelta | TextDone) -> bytes:
    return sse.unbroken(sse.event(value.type, value))
