"""Files of this machine as answers."""

import asyncio
import os
from pathlib import Path

from lmaas.http.exchange import Exchange

CHUNK_BYTES = 1 << 20


def _plain(path: str, flags: int) -> int:
    """What jobs leave may be a link: it is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW)


async def send(exchange: Exchange, source: Path, kind: bytes = b"application/octet-stream") -> None:
    """Answer with a file of this machine."""
    with await asyncio.to_thread(open, source, "rb", opener=_plain) as file:
        exchange.start(kind=kind)
        while part := await asyncio.to_thread(file.read, CHUNK_BYTES):
            exchange.push(part)
            await exchange.flowing()
    exchange.finish()
