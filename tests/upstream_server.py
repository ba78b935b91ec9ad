"""An OpenAI-compatible service whose answers are fixed, and its faults on demand.

`python tests/upstream_server.py PORT` serves until it is killed; `upstream()` runs it in a thread.
The model's name says how it behaves: `echo` is well; see `FAULTS` for the others.
"""

import asyncio
import base64
import contextlib
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import httptools
import msgspec

WORDS = ("Hello", " there", ",", " how", " are", " you", "?")
FAULTS = (
    "status-429", "status-400", "status-401", "status-404", "status-500", "status-301",
    "break-before", "break-midway", "error-midway", "silent", "endless", "no-usage", "not-json",
    "compressed", "huge-head", "close-each", "call", "long-context", "aborts",
)  # fmt: skip
KEY = "sk-upstream-secret"


class Seen:
    """What the server was asked, and how its connections went."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str] = []
        self.connections = 0
        self.live: set[asyncio.Transport] = set()
        self.lost_midway = threading.Event()
        self.keep = True

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self.live)


def usage(completion: int) -> dict[str, Any]:
    """Ten tokens of prompt."""
    return {
        "prompt_tokens": 10,
        "completion_tokens": completion,
        "total_tokens": 10 + completion,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def _logprobs(words: tuple[str, ...], body: dict[str, Any], chat: bool) -> dict[str, Any] | None:
    count = int(body.get("top_logprobs" if chat else "logprobs") or 0)
    if not body.get("logprobs") and (chat or "logprobs" not in body):
        return None
    if chat:
        tops = [{"token": f"alt{i}", "logprob": -1.0 - i} for i in range(count)]
        return {"content": [{"token": w, "logprob": -0.5, "top_logprobs": tops} for w in words]}
    return {
        "tokens": list(words),
        "token_logprobs": [-0.5] * len(words),
        "top_logprobs": [{w: -0.5} for w in words],
        "text_offset": [0] * len(words),
    }


CALL = {"id": "call_1", "type": "function"}


def whole(body: dict[str, Any], chat: bool) -> dict[str, Any]:
    """An answer that is not streamed."""
    choices = []
    for index in range(body.get("n", 1)):
        told = {"index": index, "finish_reason": "stop", "logprobs": _logprobs(WORDS, body, chat)}
        if not chat:
            told["text"] = "".join(WORDS)
            if body.get("echo"):
                before = tuple(f"p{i}" for i in range(10))
                told["text"] = "".join(before + WORDS)
                told["logprobs"] = _logprobs(before + WORDS, body, chat)
        elif body["model"] == "call":
            arguments = {"name": "weather", "arguments": '{"city": "Köln"}'}
            told |= {"finish_reason": "tool_calls"}
            told["message"] = {"content": None, "tool_calls": [CALL | {"function": arguments}]}
        else:
            told["message"] = {"content": "".join(WORDS), "reasoning_content": "Hm."}
        choices.append(told)
    answer = {"id": "x", "choices": choices, "usage": usage(len(WORDS) * len(choices))}
    if body["model"] == "no-usage":
        del answer["usage"]
    return answer


def vectors(body: dict[str, Any]) -> dict[str, Any]:
    """Vectors (length, place, 0.5) of texts, the last one first; the model's name may spoil them.

    `numbers` knows no base64.
    """
    told: list[dict[str, Any]] = []
    for index, text in enumerate(body["input"]):
        numbers = [float(len(text)), float(index), 0.5][: body.get("dimensions")]
        if body["model"] == "not-a-number":
            numbers[0] = float("nan")
        if body["model"] == "uneven":
            numbers = numbers[: 1 + index]
        raw = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
        vector: Any = numbers if body["model"] == "numbers" else raw
        if body["model"] == "not-base64":
            vector = "%%%%"
        told.insert(0, {"object": "embedding", "index": index, "embedding": vector})
    if body["model"] == "too-few":
        told = told[1:]
    if body["model"] == "twice":
        told = [told[0]] * len(told)
    answer = {"object": "list", "data": told, "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    if body["model"] == "no-usage":
        del answer["usage"]
    return answer


def chunks(body: dict[str, Any], chat: bool) -> list[dict[str, Any]]:
    """The chunks of a streamed answer."""
    told: list[dict[str, Any]] = []
    for index in range(body.get("n", 1)):
        pieces: list[dict[str, Any]]
        if not chat:
            pieces = [{"text": word} for word in WORDS]
        elif body["model"] == "call":
            first = {"name": "weather", "arguments": '{"city": '}
            pieces = [
                {"delta": {"tool_calls": [{"index": 0, **CALL, "function": first}]}},
                {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '"Köln"}'}}]}},
            ]
        else:
            pieces = [
                {"delta": {"role": "assistant", "content": ""}},
                {"delta": {"reasoning_content": "Hm."}},
                *({"delta": {"content": word}} for word in WORDS),
            ]
        for piece in pieces:
            words = (piece.get("text") or piece.get("delta", {}).get("content"),)
            if words[0]:
                piece["logprobs"] = _logprobs(words, body, chat)
            told.append({"choices": [{"index": index, "finish_reason": None, **piece}]})
        finish = "tool_calls" if chat and body["model"] == "call" else "stop"
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        told.append({"choices": [{"index": index, "finish_reason": finish, **last}]})
    if body.get("stream_options", {}).get("include_usage") and body["model"] != "no-usage":
        told.append({"choices": [], "usage": usage(len(WORDS) * body.get("n", 1))})
    return told


def event(value: object) -> bytes:
    """A server-sent event."""
    return b"data: %b\n\n" % msgspec.json.encode(value)


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, seen: Seen, fixed: dict[bytes, bytes]) -> None:
        self.seen = seen
        self.fixed = fixed
        self.parser = httptools.HttpRequestParser(self)
        self.parts: list[bytes] = []
        self.url = b""
        self.key = ""
        self.busy = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.seen.connections += 1
        self.seen.live.add(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.live.discard(self.transport)
        if self.busy:
            self.seen.lost_midway.set()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.parts, self.url = [], b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.key = value.decode().removeprefix("Bearer ")

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        body = b"".join(self.parts)
        known = self.fixed.get(body)
        if known is not None:
            self.transport.write(known)
            return
        if self.url == b"/health":
            self.send({})
            return
        asked = msgspec.json.decode(body)
        if self.seen.keep:
            self.seen.bodies.append(asked)
            self.seen.paths.append(self.url.decode())
            self.seen.keys.append(self.key)
        if self.url.endswith(b"/tokenize"):
            self.send({"count": 21})
            return
        chat = self.url.endswith(b"/chat/completions")
        if asked["model"] in FAULTS and asked["model"] not in ("call", "no-usage"):
            self.busy = True
            self.task = asyncio.get_running_loop().create_task(self.misbehave(asked, chat))
            return
        answer = self.answer(asked, chat)
        if not self.seen.keep:
            self.fixed[body] = answer
        self.transport.write(answer)

    def answer(self, asked: dict[str, Any], chat: bool) -> bytes:
        """The bytes of a good answer."""
        if self.url.endswith(b"/embeddings"):
            return self.head(200, msgspec.json.encode(vectors(asked)))
        if not asked.get("stream"):
            return self.head(200, msgspec.json.encode(whole(asked, chat)))
        events = [*(event(chunk) for chunk in chunks(asked, chat)), b"data: [DONE]\n\n"]
        return self.start() + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in events) + b"0\r\n\r\n"

    def send(self, value: object, status: int = 200, extra: bytes = b"") -> None:
        self.transport.write(self.head(status, msgspec.json.encode(value), extra))

    def head(self, status: int, body: bytes, extra: bytes = b"") -> bytes:
        return (
            b"HTTP/1.1 %d Status\r\ncontent-type: application/json\r\n"
            b"%bcontent-length: %d\r\n\r\n%b" % (status, extra, len(body), body)
        )

    def start(self) -> bytes:
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    def piece(self, value: object) -> None:
        data = event(value)
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def misbehave(self, asked: dict[str, Any], chat: bool) -> None:
        """What the model's name says."""
        fault = asked["model"]
        if fault.startswith("status-"):
            status = int(fault.removeprefix("status-"))
            error = {"message": f"No: {self.key or 'nothing'}\n" + "x" * 2000, "param": "top_p"}
            extra = b"retry-after: 7\r\n" if status == 429 else b"location: http://127.0.0.1:1/\r\n"
            self.send({"error": error}, status, extra)
        elif fault == "long-context":
            error = {"message": "too long", "code": "context_length_exceeded", "param": "messages"}
            self.send({"error": error}, 400)
        elif fault == "break-before":
            self.transport.abort()
        elif fault == "not-json":
            self.transport.write(self.head(200, b"<html>"))
        elif fault == "compressed":
            self.send({}, 200, b"content-encoding: gzip\r\n")
        elif fault == "huge-head":
            self.transport.write(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000)
        elif fault == "close-each":
            self.transport.write(self.answer(asked, chat))
            await asyncio.sleep(0.02)
            self.busy = False
            self.transport.close()
        elif fault == "silent":
            await asyncio.sleep(60)
        else:
            self.transport.write(self.start())
            for number, chunk in enumerate(chunks(asked, chat)):
                if number == 4:
                    # So that what came before is delivered, and not told as a failure at once.
                    await asyncio.sleep(0.1)
                if fault == "break-midway" and number == 4:
                    self.transport.close()
                    return
                if fault == "aborts" and number == 4:
                    chunk["choices"][0]["finish_reason"] = "abort"
                if fault == "error-midway" and number == 4:
                    self.piece({"error": {"message": f"out of memory {self.key}"}})
                    return
                self.piece(chunk)
                if number == 4:
                    break
            while fault == "endless":
                self.piece({"choices": [{"index": 0, "delta": {"content": "on "}}]})
                await asyncio.sleep(0.01)
        self.busy = False


async def serve(port: int, seen: Seen, ready: Callable[[int, asyncio.Event], None]) -> None:
    """Serve until the event is set that `ready` is given."""
    fixed: dict[bytes, bytes] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seen, fixed), "127.0.0.1", port)
    end = asyncio.Event()
    ready(server.sockets[0].getsockname()[1], end)
    await end.wait()
    server.close()
    for transport in seen.live:
        transport.abort()
    await asyncio.sleep(0)  # Then they are closed.


class Running:
    """A server in a thread: its base URL, and what it saw."""

    def __init__(self) -> None:
        self.url = ""
        self.seen = Seen()
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.end: asyncio.Event | None = None

    def started(self, port: int, end: asyncio.Event) -> None:
        """It listens."""
        self.url = f"http://127.0.0.1:{port}/v1"
        self.loop, self.end = asyncio.get_running_loop(), end
        self.ready.set()


@contextlib.contextmanager
def upstream() -> Iterator[Running]:
    """The service on a free port, in a thread of this process."""
    running = Running()
    thread = threading.Thread(target=lambda: asyncio.run(serve(0, running.seen, running.started)))
    thread.start()
    assert running.ready.wait(10)
    assert running.loop is not None
    assert running.end is not None
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(running.end.set)
        thread.join(10)


if __name__ == "__main__":
    import uvloop

    fast = Seen()
    fast.keep = False
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1]), fast, lambda port, end: None))
