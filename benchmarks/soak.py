"""An hour of mixed load with everything that goes wrong: does a server grow, lose or bill twice?

`make bench BENCH=soak` runs it (`--minutes`) and rewrites results/soak.json and .md. Clients call,
stream, cancel, hang up in the middle of streams and uploads; meanwhile workers are killed and
models unloaded. At the end each answer that a client saw is looked for in the table of usage.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import httpx
import msgspec
import psutil

from benchmarks.idle import LANGUAGE, PORT, RESULTS, prepare, running
from benchmarks.predictive import processor

MODEL = "mlp0"
CLIENTS = 6
SETTLED_MINUTES = 10
"""What is loaded and cached has come by then; growth is counted from there."""
PAUSE_S = 0.02
PRICE = {"request_micro": 7, "completion_micro": 1_000_000}


class Minute(msgspec.Struct, kw_only=True):
    """What was there at the end of a minute."""

    server_rss: int
    workers_rss: int
    descriptors: int
    threads: int
    workers: int
    requests: int


class Report(msgspec.Struct, kw_only=True):
    """The samples, what clients did, and how it compares with the table of usage."""

    day: str
    machine: str
    minutes: list[Minute]
    done: dict[str, int]
    answered: int
    rows: int
    lost: list[str]
    doubled: list[str]
    wrong: list[str]
    failures: dict[str, int]


class Load:
    """What clients do, and the ids of the requests that were answered in full."""

    def __init__(self, url: str, key: str) -> None:
        self.headers = {"authorization": f"Bearer {key}"}
        self.client = httpx.AsyncClient(base_url=url, headers=self.headers, timeout=120)
        self.dice = random.Random(0)
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.answered: dict[str, int | None] = {}
        self.over = False

    async def go_on(self) -> None:
        """One thing after the other."""
        doings = {self.call: 6, self.whole: 3, self.stream: 4, self.hang_up: 2, self.cancel: 2,
                  self.broken_upload: 2, self.refused: 1}  # fmt: skip
        while not self.over:
            (doing,) = self.dice.choices(list(doings), list(doings.values()))
            try:
                await doing()
                self.done[doing.__name__] += 1
            except httpx.HTTPError as error:
                self.failures[type(error).__name__] += 1
            await asyncio.sleep(PAUSE_S)

    def note(self, response: httpx.Response) -> None:
        """An answer came in full; or what came instead."""
        if response.status_code == 200:
            used = response.json().get("usage") if "completions" in response.url.path else None
            self.answered[response.headers["x-request-id"]] = used and used["completion_tokens"]
        else:
            self.failures[str(response.status_code)] += 1

    async def call(self) -> None:
        """A predictive call."""
        self.note(await self.client.post(f"/models/{MODEL}", json={"inputs": [0.5] * 784}))

    def chat(self, tokens: int, stream: bool) -> dict[str, object]:
        """A completion of a prompt that is not the last one's."""
        prompt = f"{self.dice.randrange(10**9)} and"
        return {"model": LANGUAGE, "prompt": prompt, "max_tokens": tokens, "stream": stream}

    async def whole(self) -> None:
        """A generation in one piece."""
        self.note(await self.client.post("/v1/completions", json=self.chat(8, False)))

    async def stream(self, most: int | None = None) -> None:
        """A generation as a stream, read to its end or left after `most` events."""
        body = self.chat(12 if most is None else 200, True)
        async with self.client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                self.failures[str(response.status_code)] += 1
                return
            seen, last = 0, ""
            async for line in response.aiter_lines():
                last = line or last
                seen += line.startswith("data:")
                if seen == most:
                    return
            if last == "data: [DONE]":
                self.answered[response.headers["x-request-id"]] = None
            else:
                self.failures["stream ended by an error"] += 1

    async def hang_up(self) -> None:
        """A client that goes away in the middle."""
        await self.stream(self.dice.randrange(1, 6))

    async def cancel(self) -> None:
        """A client that gives up at any time, also before the first byte."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.dice.random() * 0.2):
                await self.client.post("/v1/completions", json=self.chat(200, False))

    async def broken_upload(self) -> None:
        """An upload that breaks off."""
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\n"
            f"Authorization: {self.headers['authorization']}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        )
        writer.write(head.encode() + b"x" * self.dice.randrange(200_000))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.transport.abort()
        del reader

    async def refused(self) -> None:
        """What is no request."""
        response = await self.client.post("/v1/completions", json={"model": LANGUAGE, "prompt": 7})
        assert response.status_code == 400

    async def harm(self, every_s: float) -> None:
        """A worker is killed, or a model unloaded, again and again."""
        while not self.over:
            await asyncio.sleep(every_s * self.dice.uniform(0.5, 1.5))
            with contextlib.suppress(httpx.HTTPError, ProcessLookupError):
                workers = (await self.client.get("/api/workers")).json()
                live = [worker for worker in workers if worker["pid"]]
                if not live:
                    continue
                one = self.dice.choice(live)
                if self.dice.random() < 0.5:
                    os.kill(one["pid"], signal.SIGKILL)
                    self.done["kill"] += 1
                else:
                    await self.client.post(f"/api/models/{one['model']}/stop")
                    self.done["unload"] += 1


def sample(server: psutil.Process, requests: int) -> Minute:
    """What the server and its workers hold now."""
    children, rss = server.children(recursive=True), 0
    for child in children:
        with contextlib.suppress(psutil.Error):
            rss += child.memory_info().rss
    return Minute(
        server_rss=server.memory_info().rss,
        workers_rss=rss,
        descriptors=server.num_fds(),
        threads=server.num_threads(),
        workers=len(children),
        requests=requests,
    )


async def load(server: psutil.Process, key: str, minutes: float) -> tuple[Load, list[Minute]]:
    """All clients for so long."""
    load, taken = Load(f"http://127.0.0.1:{PORT}", key), []
    loop = asyncio.get_running_loop()
    async with load.client:
        for _ in range(1000):
            with contextlib.suppress(httpx.TransportError):
                if (await load.client.get("/health/live")).is_success:
                    break
            await asyncio.sleep(0.1)
        for model in (MODEL, LANGUAGE):
            # Calls that cost nothing are counted in sums; these get a row each.
            (await load.client.put(f"/api/prices/{model}", json=PRICE)).raise_for_status()
        tasks = [asyncio.create_task(load.go_on()) for _ in range(CLIENTS)]
        harm = asyncio.create_task(load.harm(min(30.0, minutes * 6)))
        tasks.append(harm)
        end = loop.time() + minutes * 60
        while (left := end - loop.time()) > 0:
            await asyncio.wait(tasks, timeout=min(60, left), return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
            taken.append(sample(server, load.done.total()))
        load.over = True
        harm.cancel()
        await asyncio.gather(*tasks[:-1])
    return load, taken


def run(minutes: float) -> Report:
    """Load, then compare with the table."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        key = prepare(home, Path(folder), (MODEL,), "3m")
        with running(home) as server:
            load_, taken = asyncio.run(load(server, key, minutes))
        with contextlib.closing(sqlite3.connect(home / "lmaas.db")) as database:
            query = "SELECT request_id, status, completion_tokens, cost_micro, requests FROM usage"
            rows = database.execute(query).fetchall()
    counts = Counter(row[0] for row in rows)
    told = {row[0]: row for row in rows}
    lost, wrong = [], []
    for id_, tokens in load_.answered.items():
        if id_ not in told or told[id_][1] != "ok":
            lost.append(id_)
        elif tokens is not None and told[id_][2:4] != (tokens, 7 + tokens):
            wrong.append(id_)
    doubled = [row[0] for row in rows if counts[row[0]] > 1 or row[4] > 1]
    return Report(
        day=date.today().isoformat(),
        machine=f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        minutes=taken,
        done=dict(load_.done),
        answered=len(load_.answered),
        rows=len(rows),
        lost=lost,
        doubled=doubled,
        wrong=wrong,
        failures=dict(load_.failures),
    )


def growth(report: Report, field: str) -> str:
    """How much a number has changed after the first minutes, in means of five."""
    settled = [getattr(minute, field) for minute in report.minutes[SETTLED_MINUTES:]]
    if len(settled) < 10:
        return "too short"
    first, last = sum(settled[:5]) / 5, sum(settled[-5:]) / 5
    return f"{last / first - 1:+.1%}" if first else "0"


def render(report: Report) -> str:
    """The result file."""
    first, last = report.minutes[0], report.minutes[-1]
    lines = [
        "# Mixed load with all that goes wrong",
        "",
        f"{report.day}, {report.machine}. `make bench BENCH=soak`, {len(report.minutes)} minutes.",
        "",
        f"| | first minute | last minute | growth after {SETTLED_MINUTES} minutes |",
        "|---|---|---|---|",
    ]
    for field, name, unit in (
        ("server_rss", "memory of the server, MiB", 1 << 20),
        ("workers_rss", "memory of workers and helpers, MiB", 1 << 20),
        ("descriptors", "open descriptors of the server", 1),
        ("threads", "threads of the server", 1),
    ):
        ends = f"{getattr(first, field) // unit} | {getattr(last, field) // unit}"
        lines.append(f"| {name} | {ends} | {growth(report, field)} |")
    done = ", ".join(f"{name} {count}" for name, count in sorted(report.done.items()))
    failed = ", ".join(f"{name} {count}" for name, count in sorted(report.failures.items()))
    lines += [
        "",
        f"Done: {done}. Not answered: {failed or 'none'}.",
        "",
        f"{report.answered} answers came in full; {report.rows} rows of usage. Answers without a "
        f"row: {len(report.lost)}. Rows that are there twice: {len(report.doubled)}. Rows whose "
        f"tokens or cost are not the client's: {len(report.wrong)}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run and write; fails where a request is lost or billed twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="one minute, and nothing is written")
    given = parser.parse_args()
    report = run(1.0 if given.quick else given.minutes)
    sys.stdout.write(render(report))
    if not given.quick:
        (RESULTS / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        (RESULTS / "soak.md").write_text(render(report), "utf-8")
    raise SystemExit(bool(report.lost or report.doubled or report.wrong))


if __name__ == "__main__":
    main()
