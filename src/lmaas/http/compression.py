"""Bodies that travel compressed: gzip and deflate, in and out.

What comes in is measured as it grows, and never further than its limit: a few kilobytes may stand
for gigabytes. Only the beginning is done in the event loop, the rest in a thread. Tensors and long
texts go out compressed for who asks for it; answers of models of text do not, for their clients all
ask, on the same machine too.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from lmaas.errors import InvalidInput, PayloadTooLarge

if TYPE_CHECKING:
    from lmaas.http.exchange import Exchange

GZIP, DEFLATE = "gzip", "deflate"
ENCODINGS: Final = {"gzip": GZIP, "x-gzip": GZIP, "deflate": DEFLATE}
INLINE_BYTES: Final = 65_536
"""So much of a body, compressed and not, is worth no thread."""
STEP_BYTES: Final = 1 << 20
"""So much is decompressed at once."""
LEAST_BYTES: Final = 1024
"""A smaller answer gains nothing."""
LEVEL: Final = 1
NAME: Final = "Content-Encoding"


def encoding_of(value: bytes) -> str | None:
    """How a body is compressed; None: it is not. Raises InvalidInput for other ways."""
    name = value.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ENCODINGS:
        raise InvalidInput(
            f"A body may be compressed by gzip or deflate; received {name[:50]!r}.",
            hint="Send it as it is.",
            param=NAME,
        )
    return ENCODINGS[name]


async def inflate(
    parts: AsyncIterator[bytes], encoding: str, limit_bytes: int
) -> AsyncIterator[bytes]:
    """What `parts` stand for, in pieces. Raises PayloadTooLarge beyond the limit, InvalidInput."""
    stream: Any = None
    worked = size = 0
    async for part in parts:
        while part:
            if stream is None:
                stream = zlib.decompressobj(_window(part, encoding))
            elif stream.eof:
                raise InvalidInput("Something follows the compressed body.", param=NAME)
            if worked < INLINE_BYTES:
                piece = _step(stream, part, INLINE_BYTES)
            else:
                piece = await asyncio.to_thread(_step, stream, part, STEP_BYTES)
            worked += len(part) - len(stream.unconsumed_tail) + len(piece)
            part = stream.unconsumed_tail or stream.unused_data
            size += len(piece)
            if size > limit_bytes:
                raise PayloadTooLarge(f"The body is larger than {limit_bytes} bytes.")
            if piece:
                yield piece
    if stream is not None and not stream.eof:
        raise InvalidInput(f"The body is not all there: its {encoding} has no end.", param=NAME)


def _window(first: bytes, encoding: str) -> int:
    """zlib's number for a format. Some clients send deflate without the header that it has."""
    if encoding == GZIP:
        return 16 + zlib.MAX_WBITS
    has_header = first[0] & 0x0F == 8 and (len(first) < 2 or (first[0] << 8 | first[1]) % 31 == 0)
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _step(stream: Any, part: bytes, most: int) -> bytes:
    try:
        return bytes(stream.decompress(part, most))
    except zlib.error as error:
        raise InvalidInput(f"The body cannot be decompressed: {error}.", param=NAME) from None


def accepted(header: bytes) -> str | None:
    """How an answer may be compressed for who sent this Accept-Encoding."""
    for each in header.decode("latin-1").lower().split(","):
        name, _, weight = each.strip().partition(";")
        if name.strip() in (GZIP, DEFLATE) and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return None


async def shrink(exchange: "Exchange", body: bytes) -> bytes:
    """An answer as its caller asked for it: compressed, with headers that say so, or as it is."""
    encoding = accepted(exchange.headers.get(b"accept-encoding", b""))
    if encoding is None or len(body) < LEAST_BYTES:
        return body
    exchange.extra += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
    window = 16 + zlib.MAX_WBITS if encoding == GZIP else zlib.MAX_WBITS
    if len(body) <= INLINE_BYTES:
        return zlib.compress(body, LEVEL, window)
    return await asyncio.to_thread(zlib.compress, body, LEVEL, window)
