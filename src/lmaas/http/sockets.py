"""How a request becomes a WebSocket, who may have how many, and the key that is looked at again."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from lmaas.errors import (
    Forbidden,
    InvalidInput,
    LMaaSError,
    Unauthorized,
    Unavailable,
    UpgradeRequired,
)
from lmaas.http.errors import status_of
from lmaas.http.exchange import Exchange
from lmaas.http.websocket import SocketClosed, WebSocket
from lmaas.service import Service
from lmaas.types import KeyRecord

VERSION: Final = b"13"
CHECK_S: Final = 1.0
"""How often it is looked whether the key still counts."""
HINT: Final = "Open it with a WebSocket client: ws://…, version 13 (RFC 6455)."


@asynccontextmanager
async def opened(service: Service, exchange: Exchange, *, speaks: str) -> AsyncIterator[WebSocket]:
    """The WebSocket that `exchange` asks for; closed at the end, and when its key is revoked.

    `speaks` is the subprotocol that is chosen where the peer offers it. Raises UpgradeRequired and
    InvalidInput for what is no handshake, RateLimited where the key has too many sessions.
    """
    accept = _check(exchange)
    key = exchange.key
    assert key is not None
    with service.sessions.one(key):
        chosen = (
            speaks.encode()
            if speaks.encode() in _listed(exchange, b"sec-websocket-protocol")
            else None
        )
        socket = exchange.switch(accept, chosen)
        watch = asyncio.ensure_future(_watch(service, key, socket))
        try:
            yield socket
            socket.close(CloseReason.NORMAL_CLOSURE)
        except SocketClosed:
            pass
        except LMaaSError as error:
            socket.close(_code_of(error), str(error))
        except asyncio.CancelledError:
            raise
        except BaseException:
            socket.close(CloseReason.INTERNAL_ERROR, f"Internal error. Request {exchange.id}.")
            raise
        finally:
            watch.cancel()
            exchange.hang_up()


async def _watch(service: Service, key: KeyRecord, socket: WebSocket) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            await service.confirm(key)
        except Unauthorized as error:
            socket.close(CloseReason.POLICY_VIOLATION, error.message)
            return
        except LMaaSError:  # The database cannot be asked now.
            continue


def _check(exchange: Exchange) -> bytes:
    """The answer to the peer's challenge. Raises UpgradeRequired, InvalidInput, Unavailable."""
    headers = exchange.headers
    if (
        b"websocket" not in _listed(exchange, b"upgrade")
        or b"upgrade" not in _listed(exchange, b"connection")
        or exchange.method != "GET"
        or not exchange.http_1_1
    ):
        raise UpgradeRequired("This route is a WebSocket; received an HTTP request.", hint=HINT)
    if headers.get(b"sec-websocket-version", b"").strip() != VERSION:
        raise UpgradeRequired("The WebSocket's version must be 13.", hint=HINT)
    challenges = [value for name, value in exchange.pairs if name == b"sec-websocket-key"]
    try:
        sizes = [len(base64.b64decode(each.strip(), validate=True)) for each in challenges]
    except (binascii.Error, ValueError):
        sizes = []
    if sizes != [16]:
        raise InvalidInput("A handshake has one Sec-WebSocket-Key: 16 bytes in base64.", hint=HINT)
    if int(headers.get(b"content-length", b"0")) or b"transfer-encoding" in headers:
        raise InvalidInput("A handshake has no body.", hint=HINT)
    if exchange.draining:
        raise Unavailable("The server ends.", hint="Try again soon.")
    return generate_accept_token(challenges[0].strip())


def _listed(exchange: Exchange, name: bytes) -> set[bytes]:
    """What all headers of a name list, in lower case but for the subprotocols."""
    values = b",".join(value for each, value in exchange.pairs if each == name)
    listed = {part.strip() for part in values.split(b",")}
    return listed if name == b"sec-websocket-protocol" else {part.lower() for part in listed}


def _code_of(error: LMaaSError) -> int:
    if isinstance(error, Unauthorized | Forbidden) or status_of(error) < 500:
        return CloseReason.POLICY_VIOLATION
    if isinstance(error, Unavailable):
        return CloseReason.TRY_AGAIN_LATER
    return CloseReason.INTERNAL_ERROR
