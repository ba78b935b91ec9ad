"""The service behind the gateways: OpenAI's chat completions with one fixed answer, whole or
streamed.

Does as little as a service can, so that what is measured is the gateway: no body is decoded, no
key checked. A streamed answer goes out chunk by chunk, each in a write and a turn of the loop of
its own, as from a model; a gateway cannot take it for one piece.

`python -m benchmarks.gateway_backend PORT` serves until it is killed.
"""

import asyncio
import re
import sys
from typing import Final, cast

import httptools
import msgspec
import uvloop

WORDS: Final = tuple(f"word{number:02d} " for number in range(24))
TEXT: Final = "".join(WORDS)
PROMPT_TOKENS: Final = 64
STREAM: Final = re.compile(rb'"stream":\s*true')


def _head(kind: bytes, framing: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n" % (kind, framing)


def _fields(kind: str) -> dict[str, object]:
    return {
        "id": "chatcmpl-behind",
        "object": kind,
        "created": 1_790_000_000,
        "model": "behind-1",
        "system_fingerprint": "fp_behind",
    }


def _usage() -> dict[str, int]:
    total = PROMPT_TOKENS + len(WORDS)
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": len(WORDS),
        "total_tokens": total,
    }


def whole() -> bytes:
    """The answer in one piece."""
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = msgspec.json.encode(
        {**_fields("chat.completion"), "choices": [choice], "usage": _usage()}
    )
    return _head(b"application/json", b"content-length: %d" % len(body)) + body


def streamed() -> list[bytes]:
    """The answer as it goes over the wire, write by write: the head is with the first chunk."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in WORDS]
    deltas.append(({}, "stop"))
    fields = _fields("chat.completion.chunk")
    chunks: list[dict[str, object]] = []
    for delta, finish in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunks.append({**fields, "choices": [choice], "usage": None})
    chunks.append({**fields, "choices": [], "usage": _usage()})
    events = [b"data: %b\n\n" % msgspec.json.encode(chunk) for chunk in chunks]
    events.append(b"data: [DONE]\n\n")
    writes = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    writes[0] = _head(b"text/event-stream", b"transfer-encoding: chunked") + writes[0]
    writes[-1] += b"0\r\n\r\n"
    return writes


WHOLE: Final = whole()
STREAMED: Final = streamed()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.streams = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.streams = False

    def on_body(self, part: bytes) -> None:
        self.streams = self.streams or STREAM.search(part) is not None

    def on_message_complete(self) -> None:
        if self.streams:
            self.write(0)
        else:
            self.transport.write(WHOLE)

    def write(self, number: int) -> None:
        """Send chunk `number`, and the next one in the next turn."""
        if not self.transport.is_closing():
            self.transport.write(STREAMED[number])
            if number + 1 < len(STREAMED):
                self.loop.call_soon(self.write, number + 1)


async def serve(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
