"""Files of this machine as answers."""

import asyncio
from pathlib import Path

from lmaas.http.exchange import Exchange

CHUNK_BYTES = 1 << 20


async def send(exchange: Exchange, source: Path, kind: bytes = b"application/octet-stream") -> None:
    """Answer with a file of this machine."""
    with source.open("rb") as file:
        exchange.start(kind=kind)
        while part := await asyncio.to_thread(file.read, CHUNK_BYTES):
            exchange.push(part)
            await exchange.flowing()
    exchange.finish()
