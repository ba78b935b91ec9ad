"""What a client of OpenAI's Realtime API sends to have speech written down, and what it may set.

Knows no sockets and no models. What is not served is refused by name.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.codecs.pcm import RATES, PcmKind
from lmaas.errors import InvalidInput
from lmaas.http.body import decode
from lmaas.transcription_types import MAX_PROMPT_CHARS

LOGPROBS: Final = "item.input_audio_transcription.logprobs"
UNSERVED: Final = frozenset(
    {
        "conversation.item.create", "conversation.item.delete", "conversation.item.retrieve",
        "conversation.item.truncate", "output_audio_buffer.clear", "response.cancel",
        "response.create", "transcription_session.update",
    }
)  # fmt: skip
"""Events of the same API that mean nothing here."""
NEVER_NULL: Final = frozenset(
    {"type", "audio", "input", "format", "include", "threshold", "prefix_padding_ms",
     "silence_duration_ms"}
)  # fmt: skip
"""Settings for which null is as if they were left out."""
Id = Annotated[str, Meta(max_length=512)]


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all that a client sends."""


class AudioFormat(Body):
    """How samples come: 16 bits little-endian at 24 kHz, or G.711 at 8 kHz; one channel."""

    type: PcmKind = "audio/pcm"
    rate: int | None = None

    @property
    def samples_per_s(self) -> int:
        """The rate that it means."""
        return RATES[self.type]


class Transcription(Body):
    """Which model writes, and what it is told beforehand."""

    model: Annotated[str, Meta(max_length=256)] | None = None
    language: Annotated[str, Meta(max_length=32)] | None = None
    prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] | None = None
    delay: Any = None
    keywords: Any = None
    languages: Any = None


class ServerVad(Body):
    """Turns are found by loudness. `threshold` 0.5 is 15 dB above the noise."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Meta(ge=0, le=5_000)] = 300
    silence_duration_ms: Annotated[int, Meta(ge=100, le=10_000)] = 500
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None


class AudioInput(Body):
    """How sound comes and what becomes of it. Without `turn_detection` the client commits."""

    format: AudioFormat = msgspec.field(default_factory=AudioFormat)
    transcription: Transcription | None = None
    noise_reduction: Any = None
    turn_detection: ServerVad | None = msgspec.field(default_factory=ServerVad)


class Audio(Body):
    """What a session hears."""

    input: AudioInput = msgspec.field(default_factory=AudioInput)


class SessionConfig(Body):
    """What a client may set."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = msgspec.field(default_factory=Audio)
    include: Annotated[
        list[Literal["item.input_audio_transcription.logprobs"]], Meta(max_length=8)
    ] = msgspec.field(default_factory=list)


class SessionUpdate(Body, tag="session.update"):
    """Changes those settings that are named."""

    session: dict[str, Any]
    event_id: Id | None = None


class Append(Body, tag="input_audio_buffer.append"):
    """More sound, in base64."""

    audio: str
    event_id: Id | None = None


class Commit(Body, tag="input_audio_buffer.commit"):
    """What was appended is a turn: write it down."""

    event_id: Id | None = None


class Clear(Body, tag="input_audio_buffer.clear"):
    """Forget what was appended."""

    event_id: Id | None = None


class _Head(msgspec.Struct):
    type: Any = None
    event_id: Any = None


ClientEvent = SessionUpdate | Append | Commit | Clear
_events: "msgspec.json.Decoder[ClientEvent]" = msgspec.json.Decoder(ClientEvent)
_sessions = msgspec.json.Decoder(SessionConfig)
_heads = msgspec.json.Decoder(_Head)


class BadEvent(Exception):
    """An event that is refused: why, and its own id where it has one."""

    def __init__(self, error: InvalidInput, event_id: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.event_id = event_id


def read_event(text: str) -> ClientEvent:
    """The event in a message. Raises BadEvent."""
    data = text.encode("utf-8", "surrogatepass")
    try:
        return decode(data, _events)
    except InvalidInput as wrong:
        head, error = _head_of(data), wrong
        event_id = head.event_id if isinstance(head.event_id, str) else None
        if head.type in UNSERVED:
            error = InvalidInput(
                f"{head.type} is not supported: this session only writes down what it hears.",
                hint="Speech comes with input_audio_buffer.append; session.update sets the rest.",
                param="type",
            )
        raise BadEvent(error, None if event_id is None else event_id[:512]) from None


def _head_of(data: bytes) -> _Head:
    try:
        return _heads.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Head()


def updated(config: SessionConfig, change: dict[str, Any]) -> SessionConfig:
    """`config` with what `change` names; what it leaves out stays. Raises InvalidInput."""
    if change.get("type") == "realtime":
        raise InvalidInput(
            "session.type realtime is not supported: no model here speaks back.",
            hint='Send {"type": "transcription", …}.',
            param="session.type",
        )
    try:
        merged = msgspec.json.encode(_merge(msgspec.to_builtins(config), change))
        fresh = decode(merged, _sessions)
    except RecursionError:
        raise InvalidInput("The session is nested too deeply.", param="session") from None
    except InvalidInput as error:
        error.param = f"session.{error.param}" if error.param else "session"
        raise
    _refuse_unserved(fresh)
    return fresh


def _merge(old: Any, new: Any, depth: int = 4) -> Any:
    """`new` over `old`, object by object, as deep as settings go."""
    if not (isinstance(old, dict) and isinstance(new, dict) and depth):
        return new
    merged = dict(old)
    for key, value in new.items():
        if value is not None or key not in NEVER_NULL:
            whole = key == "format"  # What belonged to another format does not stay.
            merged[key] = value if whole else _merge(old.get(key), value, depth - 1)
    return merged


def _refuse_unserved(config: SessionConfig) -> None:
    """Refuse what is known and not served. Raises InvalidInput."""
    given = config.audio.input
    if given.format.rate not in (None, given.format.samples_per_s):
        raise _unserved(
            "format.rate", f"{given.format.type} comes at {given.format.samples_per_s} Hz"
        )
    if given.noise_reduction is not None:
        raise _unserved("noise_reduction", "sound is heard as it comes")
    for name in ("delay", "keywords", "languages"):
        if given.transcription is not None and getattr(given.transcription, name) is not None:
            raise _unserved(f"transcription.{name}", "say what you expect in transcription.prompt")
    vad = given.turn_detection
    if vad is None:
        return
    for name in ("create_response", "interrupt_response"):
        if getattr(vad, name):
            raise _unserved(f"turn_detection.{name}", "this session does not respond")
    if vad.idle_timeout_ms is not None:
        raise _unserved("turn_detection.idle_timeout_ms", "this session does not respond")


def _unserved(name: str, why: str) -> InvalidInput:
    param = f"session.audio.input.{name}"
    return InvalidInput(f"{param} is not supported: {why}.", hint="Leave it out.", param=param)
