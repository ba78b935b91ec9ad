"""A closed-loop HTTP load generator: N connections, each sends its next request on an answer.

Runs as a process of its own (`measure`), on uvloop and httptools, so that it takes as little as
possible of the cores that it shares with the server it measures.
"""

import asyncio
import itertools
import subprocess
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import numpy as np
import uvloop


class Plan(msgspec.Struct, kw_only=True):
    """What to send: POST `bodies` in turn to `url` over `concurrency` connections."""

    url: str
    headers: dict[str, str]
    bodies: list[bytes]
    concurrency: int
    seconds: float
    warmup_s: float


class Window(msgspec.Struct, kw_only=True):
    """What one window saw. Latencies in milliseconds; `errors` are answers other than 200."""

    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def measure(plan: Plan) -> Window:
    """Run `plan` in a child process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Window)


class Load:
    """The state that all connections share."""

    def __init__(self, plan: Plan) -> None:
        parts = urlsplit(plan.url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
        self.requests = itertools.cycle(
            [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in plan.bodies]
        )
        self.start = time.perf_counter() + plan.warmup_s
        self.end = self.start + plan.seconds
        self.latencies: list[float] = []
        self.errors = 0
        self.open = plan.concurrency
        self.finished = asyncio.Event()

    def answered(self, sent: float, status: int) -> bool:
        """Count one answer; whether to go on."""
        now = time.perf_counter()
        if self.start <= now < self.end:
            if status == 200:
                self.latencies.append(now - sent)
            else:
                self.errors += 1
        return now < self.end

    def closed(self) -> None:
        """One connection has ended."""
        self.open -= 1
        if not self.open:
            self.finished.set()


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.parser = httptools.HttpResponseParser(self)
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        keep = self.parser.should_keep_alive()
        if self.load.answered(self.sent, self.parser.get_status_code()) and keep:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self.load.end:
            self.load.answered(self.sent, 0)
            asyncio.get_running_loop().create_task(connect(self.load))
        else:
            self.load.closed()


async def connect(load: Load) -> None:
    """Open one connection; a refused one is an error, tried again until the end."""
    while time.perf_counter() < load.end:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Connection(load), *load.address
            )
            return
        except OSError:
            load.errors += 1
            await asyncio.sleep(0.1)
    load.closed()


async def run(plan: Plan) -> Window:
    """Send until the time is over and every answer is in."""
    load = Load(plan)
    await asyncio.gather(*(connect(load) for _ in range(plan.concurrency)))
    await load.finished.wait()
    times = np.array(load.latencies or [float("nan")]) * 1e3
    return Window(
        requests=len(load.latencies),
        errors=load.errors,
        requests_per_s=len(load.latencies) / plan.seconds,
        p50_ms=float(np.percentile(times, 50)),
        p99_ms=float(np.percentile(times, 99)),
    )


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(given))))
