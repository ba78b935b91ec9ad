"""Compressed bodies: taken as they are meant, and measured before they are believed."""

import asyncio
import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from lmaas.errors import PayloadTooLarge
from lmaas.http import compression
from servers import Running

TENSORS = {"inputs": [{"name": "input", "shape": [9, 784], "datatype": "FP32",
                       "data": [i % 7 / 7 for i in range(9 * 784)]}]}  # fmt: skip
BODY = json.dumps(TENSORS).encode()


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
}


def inflated(data: bytes, encoding: str, *, limit: int = 1 << 30, part: int = 65_536) -> bytes:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(data), part):
            yield data[start : start + part]

    async def run() -> bytes:
        return b"".join([piece async for piece in compression.inflate(parts(), encoding, limit)])

    return asyncio.run(run())


@pytest.mark.parametrize("way", WAYS)
def test_a_compressed_body_is_what_it_stands_for(server: Running, way: str) -> None:
    name, compress = WAYS[way]
    url = f"{server.url}/v2/models/digits/infer"
    plain = httpx.post(url, content=BODY, headers=server.caller)
    headers = {**server.caller, "content-encoding": name}
    told = httpx.post(url, content=compress(BODY), headers=headers)
    assert told.status_code == 200, told.text
    assert told.json() == plain.json()


@pytest.mark.parametrize("part", [1, 7, 100, 65_536])
@pytest.mark.parametrize("way", ["gzip", "deflate", "deflate without a header"])
def test_it_may_come_in_any_pieces(way: str, part: int) -> None:
    name, compress = WAYS[way]
    data = random.Random(1).randbytes(5_000) + bytes(500_000)
    assert inflated(compress(data), name, part=part) == data


@pytest.mark.parametrize("way", ["gzip", "deflate", "deflate without a header"])
def test_a_bomb_is_measured_as_it_grows(way: str) -> None:
    name, compress = WAYS[way]
    bomb = compress(bytes(200 << 20))
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        inflated(bomb, name, limit=8 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


def test_the_loop_goes_on_while_a_large_body_grows() -> None:
    data = gzip.compress(bytes(64 << 20), 1)

    async def run() -> float:
        async def parts() -> AsyncIterator[bytes]:
            yield data

        async def work() -> None:
            async for _ in compression.inflate(parts(), "gzip", 1 << 30):
                pass

        task = asyncio.ensure_future(work())
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(run()) > 50


@pytest.mark.parametrize(
    ("body", "name", "status", "told"),
    [
        (b"xx", "gzip", 400, "decompressed"),
        (b"\x1f", "gzip", 400, "not all there"),
        (gzip.compress(BODY, mtime=0)[:-9], "gzip", 400, "not all there"),
        (gzip.compress(BODY, mtime=0) + b"more", "gzip", 400, "follows"),
        (gzip.compress(BODY, mtime=0) * 2, "gzip", 400, "follows"),
        (gzip.compress(BODY, mtime=0), "gzip, deflate", 400, "gzip or deflate"),
        (BODY, "br", 400, "gzip or deflate"),
        (gzip.compress(bytes(2_000_000), mtime=0), "gzip", 413, "larger than 1000000"),
    ],
)
def test_what_is_no_compressed_body_is_refused(
    server: Running, body: bytes, name: str, status: int, told: str
) -> None:
    headers = {**server.caller, "content-encoding": name}
    answer = httpx.post(f"{server.url}/v2/models/digits/infer", content=body, headers=headers)
    assert answer.status_code == status
    assert told in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/api/models", "/models/x"])
def test_every_door_takes_them(server: Running, path: str) -> None:
    headers = {**server.admin, "content-encoding": "gzip", "content-type": "application/json"}
    answer = httpx.post(server.url + path, content=gzip.compress(b"{}"), headers=headers)
    assert answer.status_code in (400, 404)
    assert "compressed" not in answer.text.lower()


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br;q=1.0, gzip;q=0.8", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
    ],
)
def test_an_answer_is_compressed_for_who_asks(
    server: Running, accept: str, given: str | None
) -> None:
    headers = {**server.caller, "accept-encoding": accept}
    big = httpx.get(f"{server.url}/openapi.json", headers=headers)
    assert big.headers.get("content-encoding") == given
    assert big.json()["openapi"] == "3.1.0"
    small = httpx.get(f"{server.url}/v2", headers=headers)
    assert "content-encoding" not in small.headers
    assert compression.accepted(accept.encode()) == given
