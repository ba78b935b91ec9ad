"""What is asked of a model that speaks, whatever protocol asked. Knows no transport, no engine."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from lmaas.types import Record

MAX_INPUT_CHARS: Final = 4096
"""Longest text of one request, as OpenAI's API has it."""
SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MEDIA_TYPES: Final[dict[SpeechFormat, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class SpeakRequest(Record, frozen=True, kw_only=True):
    """One text to be spoken.

    `voice` None: the model's default. `speed` 2.0 takes half the time, at the same pitch. With
    `stream` sound is sent as each sentence is spoken, where the format can be cut.
    """

    text: Annotated[str, Meta(min_length=1, max_length=MAX_INPUT_CHARS)]
    voice: Annotated[str, Meta(max_length=100)] | None = None
    format: SpeechFormat = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4.0)] = 1.0
    stream: bool = False
