"""Calls of models: limits and the ledger around each, the cache before it, the router behind it.

Knows versions, keys and answers; no transport, and no process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import NamedTuple

import msgspec

from lmaas import tasks
from lmaas.accounts.ledger import Ledger
from lmaas.aside import Aside
from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.generation_types import Delta, GenerateRequest, Usage
from lmaas.serving.cache import ResponseCache, key_of
from lmaas.serving.generation import (
    Answered,
    Generation,
    check_language,
    check_parts,
    encode_request,
)
from lmaas.serving.image_urls import ImageUrls
from lmaas.serving.metrics import Metrics
from lmaas.serving.pool import Pool
from lmaas.serving.router import Router
from lmaas.serving.speech import Speech, encode_speech, most_audio_ms
from lmaas.serving.transcription import Transcription, check_hears, payload_of
from lmaas.serving.transcription import key_of as sound_key
from lmaas.speech_types import SpeakRequest
from lmaas.transcription_types import TranscribeRequest
from lmaas.types import GENERATE, SPEAK, TEXTS, Answer, KeyRecord, ModelVersion, Payload


class Predicted(NamedTuple):
    """An answer, the version that gave it, and headers that tell what is left of the limits."""

    version: ModelVersion
    answer: Answer
    headers: list[tuple[bytes, bytes]]


class CountedTokens(NamedTuple):
    """How many tokens a prompt has for a version, and what is left of the limits."""

    version: ModelVersion
    tokens: int
    headers: list[tuple[bytes, bytes]]


class ModelCalls:
    """What callers ask of the models of one home."""

    def __init__(
        self,
        settings: Settings,
        find: Callable[[str, str], Awaitable[ModelVersion]],
        router: Router,
        pool: Pool,
        ledger: Ledger,
        cache: ResponseCache,
        metrics: Metrics,
        aside: Aside,
        images: ImageUrls,
    ) -> None:
        self._images = images
        self._settings = settings
        self._find = find
        self._router = router
        self._pool = pool
        self._ledger = ledger
        self._cache = cache
        self._metrics = metrics
        self._aside = aside
        self._keeping: set[asyncio.Future[None]] = set()

    async def predict(
        self,
        key: KeyRecord,
        ref: str,
        payload: Payload,
        *,
        endpoint: str,
        request_id: str,
        version: ModelVersion | None = None,
    ) -> Predicted:
        """Run one request; also says which version answered.

        `endpoint` and `request_id` name the request in the usage ledger; `version` is what `find`
        has just said of `ref`. Cancelling the awaiting task cancels the request, queued or running.
        """
        if version is None:
            version = await self._find(key.tenant, ref)
        await self._freshen(key)
        hears = tasks.spec(version.manifest.task).transcribes
        writes = version.manifest.signature.sequence is not None and not hears
        if payload.media_type != TEXTS and not hears and not writes:
            counted = self._ledger.count(key, endpoint, version.ref)
            if counted is not None:
                with counted:
                    version, answer = await self._router.call(version, ref, payload)
                return Predicted(version, answer, [])
        if hears:
            tokens, prompt, audio_ms = await self._sound(key, version, ref, payload)
        elif writes:
            tokens, prompt = await self._sequence_tokens(key, version, ref, payload)
            audio_ms = 0
        else:
            tokens = prompt = await self._text_tokens(key, version, ref, payload)
            audio_ms = 0
        await self._freshen(key)
        with self._ledger.reserve(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=tokens,
            prompt_tokens=prompt,
            audio_ms=audio_ms,
        ) as reservation:
            version, answer = await self._router.call(version, ref, payload)
            if answer.tokens or answer.audio_s:
                reservation.usage = Usage(
                    answer.tokens, answer.new_tokens, audio_ms=round(answer.audio_s * 1000)
                )
        return Predicted(version, answer, reservation.headers)

    async def _freshen(self, key: KeyRecord) -> None:
        """Have what bounds `key` in memory."""
        if self._ledger.stale(key):
            needed = ("ledger", key.id, self._ledger.revision())
            await self._aside.share(needed, self._ledger.freshen, key)

    async def _bounded(self, key: KeyRecord, version: ModelVersion) -> bool:
        """Whether anything bounds what `key` may use. Raises what `Ledger.check` raises."""
        await self._freshen(key)
        return self._ledger.check(key, version.ref)

    async def _text_tokens(
        self, key: KeyRecord, version: ModelVersion, ref: str, payload: Payload
    ) -> int:
        """Tokens of the texts, counted only for keys with limits: others need not wait for it."""
        if version.manifest.signature.language is None or not await self._bounded(key, version):
            return 0
        counting = msgspec.structs.replace(payload, count_only=True)
        return (await self._router.call(version, ref, counting))[1].tokens

    async def _sequence_tokens(
        self, key: KeyRecord, version: ModelVersion, ref: str, payload: Payload
    ) -> tuple[int, int]:
        """The most tokens that are read and written, and those that are read.

        Counted only for keys with limits: others need not wait for it.
        """
        if not await self._bounded(key, version):
            return 0, 0
        counting = msgspec.structs.replace(payload, count_only=True)
        told = (await self._router.call(version, ref, counting))[1]
        return told.tokens + told.new_tokens, told.tokens

    async def _sound(
        self, key: KeyRecord, version: ModelVersion, ref: str, payload: Payload
    ) -> tuple[int, int, int]:
        """The most tokens that a sound becomes, those of a prompt (none), and its milliseconds.

        Measured only for keys with limits: others need not wait for it.
        """
        if not await self._bounded(key, version):
            return 0, 0, 0
        measuring = msgspec.structs.replace(payload, count_only=True)
        told = (await self._router.call(version, ref, measuring))[1]
        return told.new_tokens, 0, round(told.audio_s * 1000)

    async def transcribe(
        self,
        key: KeyRecord,
        ref: str,
        request: TranscribeRequest,
        *,
        endpoint: str,
        request_id: str,
    ) -> Transcription:
        """What a model hears in a sound: once its first piece is there, or all of it.

        `endpoint` and `request_id` name the request in the usage ledger. Raises as `generate` does.
        """
        version = await self._find(key.tenant, ref)
        check_hears(version)
        request = _as_able(version, request)
        payload = payload_of(request)
        kept_as = body = None
        if version.name in self._settings.cached_models:
            variant = await self._pool.variant_name(version)
            kept_as = await asyncio.to_thread(sound_key, version, variant, request)
            body = await self._cache.get_bytes(kept_as)
        most, prompt, audio_ms = 0, 0, 0
        if body is None:
            most, prompt, audio_ms = await self._sound(key, version, ref, payload)
        await self._freshen(key)
        reservation = self._ledger.reserve(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=most,
            prompt_tokens=prompt,
            audio_ms=audio_ms,
        )
        transcription = Transcription(
            version,
            reservation.end,
            self._metrics,
            reservation.delivered,
            None if kept_as is None else partial(self._keep_bytes, kept_as),
        )
        transcription.headers += reservation.headers
        if kept_as is not None:
            self._metrics.cached(version.ref, hit=body is not None)
            told = b"miss" if body is None else b"hit"
            transcription.headers.append((b"x-lmaas-cache", told))
        if body is not None:
            transcription.replay(body)
        else:
            await transcription.start(lambda to: self._router.call(version, ref, payload, to))
        return transcription

    async def transcribe_here(
        self, tenant: str, ref: str, request: TranscribeRequest
    ) -> Transcription:
        """As `transcribe`, for whoever owns this home: without a key and without accounts."""
        version = await self._router.find(tenant, ref)
        check_hears(version)
        payload = payload_of(_as_able(version, request))
        transcription = Transcription(
            version, lambda usage, status, error: None, self._metrics, lambda prompt, tokens: None
        )
        await transcription.start(lambda to: self._router.call(version, ref, payload, to))
        return transcription

    async def speak(
        self,
        key: KeyRecord,
        ref: str,
        request: SpeakRequest,
        *,
        endpoint: str,
        request_id: str,
    ) -> Speech:
        """The sound of a text, once its first bytes are there. It costs its characters and seconds.

        `endpoint` and `request_id` name the request in the usage ledger. Raises InvalidInput,
        ModelNotFound, RateLimited, InsufficientQuota and whatever the model's worker raises.
        """
        version = await self._find(key.tenant, ref)
        audio_ms = most_audio_ms(version, request)
        await self._freshen(key)
        chars = len(request.text)
        reservation = self._ledger.reserve(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=chars,
            prompt_tokens=chars,
            audio_ms=audio_ms,
        )
        speech = Speech(version, reservation.end, self._metrics, reservation.delivered)
        speech.headers += reservation.headers
        payload = Payload(media_type=SPEAK, body=encode_speech(request))
        await speech.start(lambda to: self._router.speak(version, ref, payload, to))
        return speech

    def _keep_bytes(self, key: bytes, body: bytes) -> None:
        self._hold(self._cache.put_bytes(key, body))

    async def predict_here(self, tenant: str, ref: str, payload: Payload) -> Answer:
        """Run one request of whoever owns this home, without a key and without accounts."""
        version = await self._router.find(tenant, ref)
        return (await self._router.call(version, ref, payload))[1]

    async def generate(
        self,
        key: KeyRecord,
        ref: str,
        request: GenerateRequest,
        *,
        endpoint: str,
        request_id: str,
        cache: bool | None = None,
    ) -> Generation:
        """The answer of a language model, once its first token is there.

        `endpoint` and `request_id` name the request in the usage ledger. Raises InvalidInput,
        ModelNotFound, RateLimited, InsufficientQuota and whatever the model's worker raises.
        """
        version = await self._find(key.tenant, ref)
        check_language(version)
        check_parts(version, request)
        request = await self._with_images(key, version, request)
        payload = Payload(media_type=GENERATE, body=encode_request(request))
        kept_as = await self._kept_as(version, request, cache)
        ended = None if kept_as is None else await self._cache.get(kept_as)
        prompt, most = (0, 0) if ended else await self._most_tokens(key, ref, version, request)
        await self._freshen(key)
        reservation = self._ledger.reserve(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=most,
            prompt_tokens=prompt,
        )
        generation = Generation(
            version,
            reservation.end,
            self._metrics,
            reservation.delivered,
            None if kept_as is None else partial(self._keep, request),
        )
        generation.headers += reservation.headers
        if kept_as is not None:
            self._metrics.cached(version.ref, hit=ended is not None)
            generation.headers.append((b"x-lmaas-cache", b"hit" if ended else b"miss"))
        if ended is not None:
            generation.replay(ended)
            return generation
        await generation.start(lambda to: self._router.generate(version, ref, payload, to))
        return generation

    async def _with_images(
        self, key: KeyRecord, version: ModelVersion, request: GenerateRequest
    ) -> GenerateRequest:
        """The request with what it names by URL. Nothing is fetched for a key that may not ask."""
        if not request.files:
            return request
        await self._bounded(key, version)
        return await self._images.fetched(request, self._settings.max_body_bytes)

    async def _most_tokens(
        self, key: KeyRecord, ref: str, version: ModelVersion, request: GenerateRequest
    ) -> tuple[int, int]:
        """Tokens of the prompt, and the most that the request can use with its answers.

        Counted only for keys with limits: the others need not wait for it.
        """
        if not await self._bounded(key, version):
            return 0, 0
        prompt = await self._prompt_tokens(version, ref, request)
        answer, spec = request.sampling.max_tokens, version.manifest.signature.language
        room = max(0, spec.context_length - prompt) if spec is not None else 0
        if answer is None:
            answer = room
        elif request.messages and spec is not None:
            answer = min(answer, room)
        return prompt, prompt + answer * request.choices

    async def _kept_as(
        self, version: ModelVersion, request: GenerateRequest, wanted: bool | None
    ) -> bytes | None:
        """Under which key the answer is kept; None when it is not."""
        if wanted is None:
            wanted = version.name in self._settings.cached_models and request.deterministic
        if not wanted:
            return None
        if not request.deterministic:
            raise InvalidInput(
                "Only deterministic answers can be cached.",
                hint="Set temperature to 0, or give a seed.",
                param="cache",
            )
        return await self._key(version, await self._pool.variant_name(version), request)

    async def _key(self, version: ModelVersion, variant: str, request: GenerateRequest) -> bytes:
        """What a request's answer is kept under. Images take a while to be hashed."""
        if request.files:
            return await asyncio.to_thread(key_of, version, variant, request)
        return key_of(version, variant, request)

    def _keep(self, request: GenerateRequest, answered: Answered, deltas: list[Delta]) -> None:
        self._hold(self._put(request, answered, deltas))

    async def _put(self, request: GenerateRequest, answered: Answered, deltas: list[Delta]) -> None:
        # Not under the key that was looked for: since then, another variant may have taken over.
        key = await self._key(answered.version, answered.variant_name, request)
        await self._cache.put(key, answered.ended, deltas)

    def _hold(self, keeping: Coroutine[None, None, None]) -> None:
        """Run it beside the answer."""
        task = asyncio.ensure_future(keeping)
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def count_tokens(
        self, key: KeyRecord, ref: str, request: GenerateRequest, *, endpoint: str, request_id: str
    ) -> CountedTokens:
        """How many tokens the prompt of a request has for this model.

        It is a request like others for limits and the ledger, of no tokens. Raises InvalidInput for
        a model of another service: only that can count.
        """
        version = await self._find(key.tenant, ref)
        check_language(version)
        check_parts(version, request)
        if version.manifest.upstream is not None:
            raise InvalidInput(
                f"{version.ref} runs at another service, which alone can count its tokens.",
                param="model",
            )
        request = await self._with_images(key, version, request)
        await self._freshen(key)
        with self._ledger.reserve(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=0,
            prompt_tokens=0,
        ) as reservation:
            tokens = await self._prompt_tokens(version, ref, request)
        return CountedTokens(version, tokens, reservation.headers)

    async def _prompt_tokens(
        self, version: ModelVersion, ref: str, request: GenerateRequest
    ) -> int:
        body = encode_request(msgspec.structs.replace(request, count_only=True))
        _, answer = await self._router.call(version, ref, Payload(media_type=GENERATE, body=body))
        return int(answer.body)


def _as_able(version: ModelVersion, request: TranscribeRequest) -> TranscribeRequest:
    """A model that writes all at once has one piece to stream: the whole text."""
    if version.manifest.signature.sequence is None:
        return msgspec.structs.replace(request, stream=False)
    return request
