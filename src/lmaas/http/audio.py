"""POST /v1/audio/transcriptions and /v1/audio/translations in OpenAI's shape."""

from collections.abc import Callable, Sequence

from lmaas.errors import LMaaSError
from lmaas.http import audio_answer, audio_form, sse
from lmaas.http.audio_form import Asked
from lmaas.http.exchange import Exchange
from lmaas.http.form import OVERHEAD_BYTES, Fields, MemoryForm
from lmaas.http.upload import receive
from lmaas.service import Service
from lmaas.serving.transcription import Transcription
from lmaas.tasks.automatic_speech_recognition.languages import NAMES


async def transcriptions(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Write down speech: a form with `file` and `model`, answered as `response_format` says.

    `chunking_strategy` is auto (also where left out), an object of the type server_vad, or none:
    then windows follow each other as the text does. With stream=true the text comes in pieces, and
    where another format than json or text is asked for, the last event has all that was heard.
    """
    asked = await _read(service, exchange, audio_form.TRANSCRIPTION, audio_form.transcription)
    await _answer(service, exchange, asked, "audio.transcriptions")


async def translations(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Write down speech of any language in English; refused by models that cannot translate."""
    asked = await _read(service, exchange, audio_form.TRANSLATION, audio_form.translation)
    await _answer(service, exchange, asked, "audio.translations")


async def _read(
    service: Service, exchange: Exchange, known: Sequence[str], meaning: Callable[[Fields], Asked]
) -> Asked:
    most = service.settings.max_audio_bytes
    kind = exchange.headers.get(b"content-type", b"")
    form = MemoryForm(
        kind,
        known,
        (audio_form.FILE,),
        most,
        "Cut it into parts, or send it compressed (mp3, opus, flac).",
    )
    await receive(exchange, form, most + OVERHEAD_BYTES)
    return meaning(form.result())


async def _answer(service: Service, exchange: Exchange, asked: Asked, endpoint: str) -> None:
    assert exchange.key is not None
    transcription = await service.calls.transcribe(
        exchange.key, asked.model, asked.request, endpoint=endpoint, request_id=exchange.id
    )
    exchange.model = transcription.version.ref
    exchange.extra += transcription.headers
    exchange.extra.append((b"x-lmaas-model", transcription.version.ref.encode()))
    if asked.request.stream:
        await _stream(exchange, transcription, asked)
        return
    transcript = await transcription.result()
    language = transcript.language
    name = None if language is None else NAMES.get(language, language)
    body, kind = audio_answer.whole(transcript, asked, name)
    exchange.send(body, kind=kind)


async def _stream(exchange: Exchange, transcription: Transcription, asked: Asked) -> None:
    """Pieces as they come. When it fails midway, its caller is told in the stream."""
    exchange.start()
    try:
        async for piece in transcription:
            exchange.push(audio_answer.delta(piece, transcription.done))
            await exchange.flowing()
        assert transcription.transcript is not None
        exchange.push(audio_answer.done(transcription.transcript, asked))
    except LMaaSError as error:
        exchange.push(sse.error_data(error, exchange.path))
    finally:
        transcription.close()
    exchange.finish()
