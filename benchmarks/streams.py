"""A load generator for streamed completions, closed or open loop: one for every server.

Runs as a process of its own (`measure`), on uvloop and httptools. A piece of a stream costs a
search for two marks; tokens are counted by the `usage` that the server tells at the end.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import numpy as np
import uvloop

PIECE = b'"text":'
"""What an event with a piece of the answer has, and the one with the usage has not."""
USAGE = re.compile(rb'"usage":\s*(\{.*\})', re.DOTALL)
GOOD_TTFT_S = 1.0
GOOD_TPOT_S = 0.1


class Plan(msgspec.Struct, kw_only=True):
    """What to send: each of `prompts` once, `concurrency` at a time (closed loop).

    With `rate`, requests/s, they arrive at random instead (Poisson), however many still run.
    `fields` is the rest of the body, `texts` replaces the ids where a server takes none.
    """

    url: str = ""
    headers: dict[str, str] = {}
    fields: dict[str, object] = {}
    prompts: list[list[int]]
    texts: list[str] = []
    tokens: int
    concurrency: int
    rate: float = 0.0
    seed: int = 0

    def bodies(self) -> list[bytes]:
        """The request bodies."""
        return [
            msgspec.json.encode({"prompt": prompt, "max_tokens": self.tokens, **self.fields})
            for prompt in self.texts or self.prompts
        ]


class Request(msgspec.Struct):
    """One request's times, from its arrival on; `tokens` as the server counted them."""

    sent: float
    first: float = 0.0
    last: float = 0.0
    prompt: int = 0
    tokens: int = 0
    status: int = 0


class Window(msgspec.Struct, kw_only=True):
    """What one window saw. An answer of another length than asked for is an error."""

    requests: int
    errors: int
    seconds: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    goodput_per_s: float


def window_of(requests: list[Request], plan: Plan) -> Window:
    """The figures of finished requests."""
    wanted = {len(prompt) for prompt in plan.prompts}
    good = [
        r
        for r in requests
        if r.status == 200 and r.first and r.tokens == plan.tokens and r.prompt in wanted
    ]
    nan = [float("nan")]
    ttft = np.array([r.first - r.sent for r in good] or nan)
    tpot = np.array([(r.last - r.first) / max(1, r.tokens - 1) for r in good] or nan)
    seconds = max(r.last for r in requests) - min(r.sent for r in requests)
    met = int(((ttft <= GOOD_TTFT_S) & (tpot <= GOOD_TPOT_S)).sum())
    return Window(
        requests=len(requests),
        errors=len(requests) - len(good),
        seconds=seconds,
        tokens_per_s=sum(r.tokens for r in good) / seconds,
        ttft_p50_ms=float(np.percentile(ttft, 50)) * 1e3,
        ttft_p99_ms=float(np.percentile(ttft, 99)) * 1e3,
        tpot_p50_ms=float(np.percentile(tpot, 50)) * 1e3,
        tpot_p99_ms=float(np.percentile(tpot, 99)) * 1e3,
        goodput_per_s=met / seconds,
    )


def measure(plan: Plan) -> Window:
    """Run `plan` in a child process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.streams"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Window)


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None
        self.done: asyncio.Future[None] | None = None
        self.tail = b""
        self._new_parser()

    def _new_parser(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        request = self.request
        assert request is not None
        if PIECE in body:
            request.last = time.perf_counter()
            request.first = request.first or request.last
        self.tail = (self.tail + body)[-2048:]

    def on_message_complete(self) -> None:
        assert self.request is not None
        self.request.status = self.parser.get_status_code()
        for line in self.tail.splitlines():
            found = USAGE.search(line)
            if found:
                told = msgspec.json.decode(line.removeprefix(b"data:").strip()).get("usage")
                self.request.prompt = told["prompt_tokens"]
                self.request.tokens = told["completion_tokens"]
        if not self.parser.should_keep_alive():
            assert self.transport is not None
            self.transport.close()
            self.transport = None
        self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._finish()

    def _finish(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    async def send(self, data: bytes, address: tuple[str, int]) -> Request:
        """Send a request and wait for the end of its answer."""
        loop = asyncio.get_running_loop()
        self.request = Request(time.perf_counter())
        self.tail = b""
        if self.transport is None:
            self._new_parser()
            await loop.create_connection(lambda: self, *address)
        assert self.transport is not None
        self.done = loop.create_future()
        self.transport.write(data)
        await self.done
        if not self.request.last:
            self.request.last = time.perf_counter()
        return self.request


async def run(plan: Plan) -> Window:
    """Send everything and wait for every answer."""
    parts = urlsplit(plan.url)
    address = parts.hostname or "127.0.0.1", parts.port or 80
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += "Content-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
    waiting = deque(
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in plan.bodies()
    )
    seen: list[Request] = []

    async def client() -> None:
        connection = Connection()
        while waiting:
            seen.append(await connection.send(waiting.popleft(), address))

    if not plan.rate:
        await asyncio.gather(*(client() for _ in range(plan.concurrency)))
        return window_of(seen, plan)
    idle: list[Connection] = []

    async def arrival(data: bytes) -> None:
        connection = idle.pop() if idle else Connection()
        seen.append(await connection.send(data, address))
        idle.append(connection)

    gaps = np.random.default_rng(plan.seed).exponential(1 / plan.rate, len(waiting))
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for due in np.cumsum(gaps) - gaps[0]:
            await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
            group.create_task(arrival(waiting.popleft()))
    return window_of(seen, plan)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(given))))
