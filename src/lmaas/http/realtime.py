"""/v1/realtime: live transcription over a WebSocket, as OpenAI's Realtime API has it."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from typing import Final

from wsproto.frame_protocol import CloseReason

from lmaas.errors import InvalidInput, TimedOut
from lmaas.http import sockets
from lmaas.http.exchange import Exchange
from lmaas.http.realtime_session import RealtimeSession
from lmaas.service import Service
from lmaas.serving.transcription import check_hears
from lmaas.transcription_types import TranscribeRequest, Transcript

QUERY: Final = ("intent", "model")
INTENT: Final = "transcription"
SUBPROTOCOL: Final = "realtime"


async def connect(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Have speech written down while it is spoken: a WebSocket of OpenAI's Realtime events."""
    asked, key = exchange.query, exchange.key
    assert key is not None
    if asked.get("intent", INTENT) != INTENT:
        raise InvalidInput(
            "The intent must be transcription: no model here speaks back.",
            hint="Open /v1/realtime?intent=transcription.",
            param="intent",
        )
    if "call_id" in asked:
        raise InvalidInput("Calls by telephone are not supported.", param="call_id")
    model = asked.get("model") or None

    async def known(ref: str) -> None:
        check_hears(await service.find(key.tenant, ref))

    if model is not None:
        await known(model)
        exchange.model = model
    numbers = itertools.count(1)

    async def hear(ref: str, request: TranscribeRequest) -> AsyncGenerator[str | Transcript, None]:
        transcription = await service.calls.transcribe(
            key,
            ref,
            request,
            endpoint="realtime",
            request_id=f"{exchange.id}-{next(numbers)}",
        )
        try:
            async for piece in transcription:
                yield piece
            assert transcription.transcript is not None
            yield transcription.transcript
        finally:
            transcription.close()

    longest_s = service.settings.session_timeout_s
    async with sockets.opened(service, exchange, speaks=SUBPROTOCOL) as socket:
        expires_at = int(time.time() + longest_s)
        session = RealtimeSession(socket, hear, known, model=model, expires_at=expires_at)
        try:
            async with asyncio.timeout(longest_s):
                await session.run()
        except TimeoutError:
            await session.fail(TimedOut(f"A session lasts {longest_s:g} s at most."))
            socket.close(CloseReason.NORMAL_CLOSURE, "The session has expired.")
