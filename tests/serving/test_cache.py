"""What is given again, and what never is."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lmaas.generation_types import Delta, Ended, GenerateRequest, Sampling, Usage
from lmaas.serving.cache import Memory, ResponseCache, joined
from servers import Running

ENDED = Ended(Usage(3, 2), (Delta(0, "a", 1), Delta(1, "x", 1, "stop"), Delta(0, "b", 1, "length")))


def test_deltas_are_joined_by_choice() -> None:
    assert joined(ENDED.deltas) == (Delta(0, "ab", 2, "length"), Delta(1, "x", 1, "stop"))


def test_memory_forgets_what_was_used_least_recently() -> None:
    async def run() -> list[bytes | None]:
        memory = Memory(80)
        for name in (b"a", b"b"):
            await memory.put(name, name * 10)
        for number in range(6):
            await memory.get(b"a")
            await memory.put(b"%d" % number, b"n" * 10)
        await memory.put(b"large", b"l" * 70)
        await memory.put(b"a", b"again")
        return [await memory.get(name) for name in (b"a", b"b", b"5", b"large")]

    assert asyncio.run(run()) == [b"again", b"b" * 10, b"n" * 10, None]


def test_memory_is_bounded() -> None:
    async def run() -> int:
        memory = Memory(100)
        for number in range(100):
            await memory.put(b"%d" % number, b"n" * 10)
        return sum([await memory.get(b"%d" % number) is not None for number in range(100)])

    assert asyncio.run(run()) == 10


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A server that speaks Redis's protocol."""
    from fakeredis import TcpFakeServer

    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_redis_keeps_answers(redis_url: str) -> None:
    async def run() -> Ended | None:
        cache = ResponseCache(0, redis_url)
        await cache.put(b"k", ENDED, ENDED.deltas)
        assert await cache.get(b"other") is None
        found = await cache.get(b"k")
        await cache.close()
        return found

    assert asyncio.run(run()) == Ended(Usage(3, 2), joined(ENDED.deltas))


def test_a_lost_redis_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> Ended | None:
        cache = ResponseCache(0, "redis://127.0.0.1:1")
        await cache.put(b"k", ENDED, ENDED.deltas)
        found = await cache.get(b"k")
        await cache.close()
        return found

    caplog.set_level(logging.WARNING, "lmaas.serving.cache")
    assert asyncio.run(run()) is None
    assert "does not answer" in caplog.text


def ask(language: Running, **more: Any) -> httpx.Response:
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 8,
        "temperature": 0,
        "cache": True,
    }
    url = f"{language.url}/v1/chat/completions"
    return httpx.post(url, json=body | more, headers=language.caller, timeout=60)


def test_the_same_request_is_answered_again(language: Running) -> None:
    first, second = ask(language, seed=41), ask(language, seed=41, user="someone else")
    assert [first.headers["x-lmaas-cache"], second.headers["x-lmaas-cache"]] == ["miss", "hit"]
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["usage"] == second.json()["usage"]
    streamed = ask(language, seed=41, stream=True)
    assert streamed.headers["x-lmaas-cache"] == "hit"
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_what_is_not_the_same_is_not_a_hit(language: Running) -> None:
    ask(language, seed=42)
    for change in ({"seed": 43}, {"max_tokens": 7}, {"stop": ["q"]}, {"n": 2}):
        assert ask(language, **({"seed": 42} | change)).headers["x-lmaas-cache"] == "miss"
    assert "x-lmaas-cache" not in ask(language, seed=42, cache=False).headers


def test_errors_are_not_kept(language: Running) -> None:
    for _ in range(2):
        assert ask(language, seed=44, logit_bias={"3": 1}).status_code == 400
    refused = ask(language, temperature=1)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "cache"


def test_it_is_off_unless_asked_for() -> None:
    assert not GenerateRequest(prompt="a").deterministic
    assert GenerateRequest(prompt="a", sampling=Sampling(seed=1)).deterministic
