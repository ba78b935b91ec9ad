"""What the fields of OpenAI's audio forms mean; what is known but not served is refused by name."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec

from lmaas.errors import InvalidInput
from lmaas.http.form import Fields
from lmaas.transcription_types import MAX_PROMPT_CHARS, Detection, TranscribeRequest

FILE: Final = "file"
Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
GRANULARITIES: Final = ("word", "segment")
SHARED: Final = ("model", "prompt", "response_format", "temperature")
CHUNKING: Final = "chunking_strategy"
VAD: Final = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms")
UNSERVED: Final = {
    "languages[]": "Send one `language`, or none: the model tells.",
    "keywords[]": "Put the words into `prompt`.",
    "known_speaker_names[]": "No model here tells speakers apart.",
    "known_speaker_references[]": "No model here tells speakers apart.",
}
TRANSCRIPTION: Final = (
    *SHARED, "language", "stream", "timestamp_granularities[]", "include[]", CHUNKING,
    *(f"{CHUNKING}[{name}]" for name in VAD), *UNSERVED,
)  # fmt: skip
TRANSLATION: Final = SHARED
MAX_LANGUAGE_CHARS: Final = 40
T = TypeVar("T")


class VadBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut: by voice activity."""

    type: Literal["server_vad"]
    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A form that was read: which model, what it shall do, how it is answered."""

    model: str
    request: TranscribeRequest
    format: Format
    logprobs: bool = False


def transcription(fields: Fields) -> Asked:
    """A form of /v1/audio/transcriptions. Raises InvalidInput naming the field."""
    for name, hint in UNSERVED.items():
        if fields.all(name):
            raise InvalidInput(f"{name} is not supported.", hint=hint, param=name)
    format_ = _format(fields, "diarized_json: no model here tells speakers apart")
    stream = _choice(fields, "stream", ("true", "false")) == "true"
    granularities = _all_of(fields, "timestamp_granularities[]", GRANULARITIES)
    if granularities and format_ != "verbose_json":
        raise InvalidInput(
            f"timestamp_granularities[] goes with the response_format verbose_json, not {format_}.",
            param="timestamp_granularities[]",
        )
    logprobs = bool(_all_of(fields, "include[]", ("logprobs",)))
    if logprobs and format_ != "json":
        raise InvalidInput(
            f"include[]=logprobs goes with the response_format json, not {format_}.",
            param="include[]",
        )
    language = fields.text("language")
    if language is not None and not 1 <= len(language) <= MAX_LANGUAGE_CHARS:
        raise InvalidInput(
            f"language is a code such as en; received {language[:MAX_LANGUAGE_CHARS]!a}.",
            param="language",
        )
    cut, detection = _chunking(fields)
    return Asked(
        model=_model(fields),
        format=format_,
        logprobs=logprobs,
        request=TranscribeRequest(
            audio=_file(fields),
            language=None if language is None else language.lower(),
            prompt=_prompt(fields),
            temperature=_temperature(fields),
            words="word" in granularities,
            segments=_has_segments(format_, granularities),
            logprobs=logprobs,
            cut_at_silence=cut,
            detection=detection,
            stream=stream,
        ),
    )


def translation(fields: Fields) -> Asked:
    """A form of /v1/audio/translations. Raises InvalidInput naming the field."""
    format_ = _format(fields, "")
    return Asked(
        model=_model(fields),
        format=format_,
        request=TranscribeRequest(
            audio=_file(fields),
            translate=True,
            prompt=_prompt(fields),
            temperature=_temperature(fields),
            segments=_has_segments(format_, ()),
        ),
    )


def _has_segments(format_: Format, granularities: Sequence[str]) -> bool:
    if format_ == "verbose_json":
        return not granularities or "segment" in granularities
    return format_ in ("srt", "vtt")


def _model(fields: Fields) -> str:
    model = fields.text("model")
    if not model:
        raise InvalidInput("The field model is missing.", param="model")
    return model


def _file(fields: Fields) -> bytes:
    if not fields.file:
        raise InvalidInput("The file is empty.", param=FILE)
    return fields.file


def _prompt(fields: Fields) -> str | None:
    prompt = fields.text("prompt")
    if prompt is not None and len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidInput(
            f"prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARS} are taken.",
            param="prompt",
        )
    return prompt or None


def _format(fields: Fields, beside: str) -> Format:
    given = fields.text("response_format")
    if given is None:
        return "json"
    if given not in FORMATS:
        raise InvalidInput(
            f"response_format is one of {', '.join(FORMATS)}; received {given[:40]!a}.",
            hint=f"Not {beside}." if beside and given == "diarized_json" else None,
            param="response_format",
        )
    known: Format = msgspec.convert(given, Format)
    return known


def _temperature(fields: Fields) -> float | None:
    """None, as 0 is: higher ones are tried where the text looks wrong."""
    value = _number(fields.text("temperature"), "temperature", float)
    if value is not None and not 0 <= value <= 1:
        raise InvalidInput(f"temperature is from 0 to 1; received {value}.", param="temperature")
    return value or None


def _number(text: str | None, name: str, kind: Callable[[str], T]) -> T | None:
    if text is None:
        return None
    try:
        # Plain digits: `float` would take "1_0", "inf" and blanks too.
        if not text.isascii() or len(text) > 30 or set(text) - set("0123456789.-+eE"):
            raise ValueError
        return kind(text)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{name} is a number; received {text[:40]!a}.", param=name) from None


def _choice(fields: Fields, name: str, known: Sequence[str]) -> str | None:
    value = fields.text(name)
    if value is not None and value.lower() not in known:
        raise InvalidInput(f"{name} is {' or '.join(known)}; received {value[:40]!a}.", param=name)
    return None if value is None else value.lower()


def _all_of(fields: Fields, name: str, known: Sequence[str]) -> Sequence[str]:
    for value in fields.all(name):
        if value not in known:
            raise InvalidInput(
                f"{name} is one of {', '.join(known)}; received {value[:40]!a}.", param=name
            )
    return fields.all(name)


def _chunking(fields: Fields) -> tuple[bool, Detection]:
    """Whether windows are cut at silences, and how these are found."""
    whole = fields.text(CHUNKING)
    parts: dict[str, Any] = {}
    for name in VAD:
        text = fields.text(f"{CHUNKING}[{name}]")
        if text is None:
            continue
        param = f"{CHUNKING}[{name}]"
        if name == "type":
            parts[name] = text
        else:
            parts[name] = _number(text, param, float if name == "threshold" else int)
    if whole is not None and parts:
        raise InvalidInput(f"{CHUNKING} is a word or an object, not both.", param=CHUNKING)
    if not parts and whole in (None, "auto", "none"):
        return whole != "none", Detection()
    try:
        given = (
            msgspec.convert(parts, VadBody)
            if parts
            else msgspec.json.decode(whole or "", type=VadBody)
        )
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(
            f"{CHUNKING} is auto, none or an object of the type server_vad: {error}.",
            param=CHUNKING,
        ) from None
    default = Detection()
    padding, silence = given.prefix_padding_ms, given.silence_duration_ms
    told = {
        "threshold": default.threshold if given.threshold is None else given.threshold,
        "padding_s": default.padding_s if padding is None else padding / 1000,
        "silence_s": default.silence_s if silence is None else silence / 1000,
    }
    try:
        return True, msgspec.convert(told, Detection)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{CHUNKING} is out of range: {error}.",
            hint="threshold is from 0 to 1, prefix_padding_ms from 0 to 5000, "
            "silence_duration_ms from 1 to 10000.",
            param=CHUNKING,
        ) from None
