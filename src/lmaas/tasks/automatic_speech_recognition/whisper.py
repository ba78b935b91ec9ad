"""Whisper: what a request asks of it, as a conversation with an engine, and its answer.

Owns the reading of requests and the shape of answers. How windows become text is the matter of
`whisper_run`. Knows no engine.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.codecs import audio
from lmaas.codecs.limits import Limits
from lmaas.codecs.media import from_base64
from lmaas.errors import InvalidInput
from lmaas.runtime.sequence.calls import Conversation
from lmaas.tasks.automatic_speech_recognition.languages import CODES
from lmaas.tasks.automatic_speech_recognition.voice import SAMPLE_RATE
from lmaas.tasks.automatic_speech_recognition.whisper_run import Run
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import (
    WhisperTokens,
    alignment_heads,
)
from lmaas.transcription_types import MAX_PROMPT_CHARS, TranscribeRequest, Transcript
from lmaas.types import (
    JSON,
    TENSORS,
    TRANSCRIBE,
    UNREADABLE,
    Answer,
    AudioSpec,
    Payload,
    SequenceSpec,
    Signature,
)

_requests: Final = msgspec.msgpack.Decoder(TranscribeRequest)
TOKENS_PER_S: Final = 224 / 30
"""The most tokens that a second of sound becomes, for those who reserve them."""


class GenerateOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Hugging Face's callers say how a text is written; null is as if left out."""

    language: str | None = None
    task: str | None = None
    temperature: float | None = None
    num_beams: int | None = None
    condition_on_prev_tokens: bool | None = None
    return_timestamps: bool | str | None = None


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of Hugging Face's automatic speech recognition."""

    return_timestamps: bool | str | None = None
    generate_kwargs: GenerateOptions | None = None
    generation_parameters: GenerateOptions | None = None
    language: str | None = None
    task: str | None = None
    prompt: str | None = None


class FileCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sound in JSON: base64, or a data: URL."""

    inputs: str
    parameters: Parameters | None = None


_calls: Final = msgspec.json.Decoder(FileCall)


class Whisper:
    """One model's words and abilities. It answers requests of all kinds; thread-safe."""

    def __init__(self, tokens: WhisperTokens, *, times_words: bool) -> None:
        self._tokens = tokens
        self._times_words = times_words

    @classmethod
    def bind(cls, folder: Path) -> "Whisper":
        """The model whose files are in `folder`. Raises InvalidInput for damaged ones."""
        return cls(WhisperTokens(folder), times_words=alignment_heads(folder))

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Write down one sound.

        `TRANSCRIBE` is answered by a `Transcript`, raw bytes and JSON as Hugging Face's
        clients read it. Raises InvalidInput, PayloadTooLarge.
        """
        request = read_request(payload, limits)
        spec, sound = signature.sequence, signature.audio
        assert spec is not None, signature
        assert sound is not None, signature
        self._check(request, spec)
        if payload.count_only:
            heard_s = audio.seconds(request.audio, limits)
            return Answer(body=b"", new_tokens=int(heard_s * TOKENS_PER_S) + 1, audio_s=heard_s)
        samples = audio.decode(request.audio, sound.sample_rate, limits)
        duration_s = len(samples) / sound.sample_rate
        run = Run(self._tokens, request, spec, sound, samples)
        try:
            turn = run.begin()
            while not run.over:
                event = yield turn
                assert event is not None, "sequences are out"
                turn = run.take(event)
            if turn.pieces:
                yield turn
        finally:  # whoever closes this ends the run, too
            run.close()
        transcript = run.transcript()
        told: Any = transcript
        if payload.media_type != TRANSCRIBE:
            told = hugging_face(transcript, words=request.words)
        body = msgspec.json.encode(told)
        return Answer(body=body, new_tokens=run.written, audio_s=duration_s)

    def _check(self, request: TranscribeRequest, spec: SequenceSpec) -> None:
        """Raise InvalidInput for what this model cannot do."""
        if request.words and not self._times_words:
            raise InvalidInput(
                "This model cannot tell when words are spoken: it does not say which of its "
                "attention heads follow the sound (alignment_heads).",
                hint="Ask for times of segments.",
                param="timestamp_granularities",
            )
        if not spec.languages:
            if request.translate:
                raise InvalidInput(
                    "This model knows English only: it does not translate.",
                    hint="Use a multilingual model.",
                    param="task",
                )
            if request.language not in (None, "en"):
                raise InvalidInput(
                    f"This model knows English only; received the language {request.language!a}.",
                    hint="Leave it out, or use a multilingual model.",
                    param="language",
                )
        elif request.language is not None and request.language not in spec.languages:
            known = ", ".join(sorted(spec.languages))
            raise InvalidInput(
                f"The language {request.language[:50]!a} is not known; known are {known}.",
                param="language",
            )


def check_whisper(spec: SequenceSpec, sound: AudioSpec) -> None:
    """Raise InvalidInput for a model that is no Whisper."""
    features = (sound.features, sound.scale, sound.sample_rate)
    expected = ("log-mel", "whisper", SAMPLE_RATE)
    if spec.source != "audio" or features != expected or not sound.most_s:
        raise InvalidInput(
            f"Expected a model that reads windows of log-mel features at {SAMPLE_RATE} Hz as "
            f"Whisper does; got {spec.source} and {features}.",
            param="audio",
        )
    if len(spec.start) != 1 or not spec.stop_token_ids:
        raise InvalidInput("Whisper begins with one token, and some token ends it.", param="start")


def read_request(payload: Payload, limits: Limits) -> TranscribeRequest:
    """What a body asks for. Raises InvalidInput."""
    if payload.media_type == TRANSCRIBE:
        try:
            return _requests.decode(payload.body)
        except UNREADABLE as error:
            raise InvalidInput(f"The request cannot be read: {error}.") from None
    if payload.media_type == TENSORS:
        raise InvalidInput(
            "This model takes a sound, not tensors.",
            hint="Send the file to /v1/audio/transcriptions or /models/NAME.",
        )
    if payload.media_type != JSON:
        if payload.parameters:
            return _asked(payload.body, msgspec.convert(payload.parameters, Parameters))
        return TranscribeRequest(audio=payload.body)
    try:
        call = _calls.decode(payload.body)
    except UNREADABLE as error:
        raise InvalidInput(
            f"The body does not fit: {error}.",
            hint='Send the file\'s bytes, or {"inputs": "<base64>", "parameters": {…}}.',
        ) from None
    return _asked(from_base64(call.inputs, limits, param="inputs"), call.parameters)


def _asked(data: bytes, given: Parameters | None) -> TranscribeRequest:
    """A Hugging Face request as a record. Raises InvalidInput naming the parameter."""
    given = given or Parameters()
    if given.generate_kwargs is not None and given.generation_parameters is not None:
        raise InvalidInput(
            "generate_kwargs and generation_parameters are two names of the same.",
            hint="Send one.",
            param="parameters.generate_kwargs",
        )
    options = given.generate_kwargs or given.generation_parameters or GenerateOptions()
    times = given.return_timestamps if given.return_timestamps is not None else (
        options.return_timestamps
    )  # fmt: skip
    if times not in (None, True, False, "word", "segment"):
        raise InvalidInput(
            f'return_timestamps is true, false or "word"; received {str(times)[:50]!a}.',
            param="parameters.return_timestamps",
        )
    task = given.task or options.task or "transcribe"
    if task not in ("transcribe", "translate"):
        raise InvalidInput(
            f"task is transcribe or translate; received {task[:50]!a}.", param="parameters.task"
        )
    beams = options.num_beams
    if beams is not None and not 1 <= beams <= 16:
        raise InvalidInput(f"num_beams is from 1 to 16; received {beams}.", param="num_beams")
    if options.temperature is not None and not 0 <= options.temperature <= 1:
        raise InvalidInput(
            f"temperature is from 0 to 1; received {options.temperature}.", param="temperature"
        )
    if given.prompt is not None and len(given.prompt) > MAX_PROMPT_CHARS:
        raise InvalidInput(
            f"prompt has more than {MAX_PROMPT_CHARS} characters.", param="parameters.prompt"
        )
    language = given.language or options.language
    return TranscribeRequest(
        audio=data,
        language=CODES.get(language.lower(), language.lower()) if language else None,
        translate=task == "translate",
        prompt=given.prompt,
        temperature=options.temperature or None,
        beams=beams,
        words=times == "word",
        segments=times is True or times == "segment",
        previous_text=bool(options.condition_on_prev_tokens),
    )


def hugging_face(transcript: Transcript, *, words: bool) -> dict[str, Any]:
    """A transcript as Hugging Face's clients read it; `chunks` where times were asked for."""
    told: dict[str, Any] = {"text": transcript.text}
    if words and transcript.words is not None:
        told["chunks"] = [
            {"text": word.word, "timestamp": [word.start, word.end]} for word in transcript.words
        ]
    elif transcript.segments is not None:
        told["chunks"] = [
            {"text": each.text, "timestamp": [each.start, each.end]} for each in transcript.segments
        ]
    return told
