"""Texts to sound: OpenAI's /v1/audio/speech, and Hugging Face's text-to-speech below /models.

A file comes whole where its head says how long it is (wav, flac); other formats come sentence by
sentence, as bytes or as events.
"""

import base64
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import LMaaSError
from lmaas.http import sse
from lmaas.http.body import decode, model_of, read, refuse
from lmaas.http.errors import openai_error
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.serving.speech import Speech
from lmaas.speech_types import MAX_INPUT_CHARS, MEDIA_TYPES, SpeakRequest, SpeechFormat

WHOLE: Final = ("wav", "flac")
Text = Annotated[str, Meta(min_length=1, max_length=MAX_INPUT_CHARS)]
VoiceName = Annotated[str, Meta(max_length=100)]
Speed = Annotated[float, Meta(ge=0.25, le=4.0)]


class Voice(msgspec.Struct, forbid_unknown_fields=True):
    """A voice by its name."""

    id: VoiceName


class SpeechBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text to be spoken. Without a voice, the model's default speaks."""

    model: str | None = None
    input: Text
    voice: VoiceName | Voice | None = None
    response_format: SpeechFormat | None = None
    speed: Speed | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None


class SpeechParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a Hugging Face client may say beside the text (`extra_body`)."""

    voice: VoiceName | None = None
    speed: Speed | None = None
    response_format: SpeechFormat | None = None


class SpeechCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Hugging Face's text-to-speech: a text, answered by a WAV file."""

    inputs: Text
    parameters: SpeechParameters | None = None


_decoder = msgspec.json.Decoder(SpeechBody)
_call_decoder = msgspec.json.Decoder(SpeechCall)


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Speak a text: OpenAI's text to speech, whole or as it is spoken."""
    body = await read(service, exchange, _decoder)
    refuse(body, {"instructions": (None, "")})
    events = body.stream_format == "sse"
    request = SpeakRequest(
        text=body.input,
        voice=body.voice.id if isinstance(body.voice, Voice) else body.voice,
        format=body.response_format or "mp3",
        speed=1.0 if body.speed is None else body.speed,
        stream=True,
    )
    ref = model_of(body.model, path)
    speech = await _begin(service, exchange, ref, request, "speech")
    if events:
        await _send_events(exchange, speech)
    else:
        await _send(exchange, speech, request.format)


async def speak(service: Service, exchange: Exchange, ref: str, body: bytes) -> None:
    """The sound of a Hugging Face client's text."""
    call = decode(body, _call_decoder)
    given = call.parameters or SpeechParameters()
    request = SpeakRequest(
        text=call.inputs,
        voice=given.voice,
        format=given.response_format or "wav",
        speed=1.0 if given.speed is None else given.speed,
        stream=True,
    )
    speech = await _begin(service, exchange, ref, request, "models")
    await _send(exchange, speech, request.format)


async def _begin(
    service: Service, exchange: Exchange, ref: str, request: SpeakRequest, endpoint: str
) -> Speech:
    assert exchange.key is not None
    speech = await service.calls.speak(
        exchange.key, ref, request, endpoint=endpoint, request_id=exchange.id
    )
    exchange.model = speech.version.ref
    exchange.extra += speech.headers
    exchange.extra.append((b"x-lmaas-model", speech.version.ref.encode()))
    return speech


async def _send(exchange: Exchange, speech: Speech, format: SpeechFormat) -> None:
    kind = MEDIA_TYPES[format].encode()
    if format in WHOLE:
        exchange.send(b"".join([part async for part in speech]), kind=kind)
        return
    exchange.start(kind=kind)
    async for part in speech:
        exchange.push(part)
        await exchange.flowing()
    exchange.finish()


async def _send_events(exchange: Exchange, speech: Speech) -> None:
    exchange.start()
    try:
        async for part in speech:
            sound = base64.b64encode(part).decode()
            exchange.push(_event({"type": "speech.audio.delta", "audio": sound}))
            await exchange.flowing()
        usage = {"input_tokens": speech.chars, "output_tokens": 0, "total_tokens": speech.chars}
        exchange.push(_event({"type": "speech.audio.done", "usage": usage}))
    except LMaaSError as error:
        exchange.push(_event({"type": "error", "error": openai_error(error)}))
    exchange.finish()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % sse.encode(value)
