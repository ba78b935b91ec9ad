"""A language model with settings that are not the defaults: torch, one answer at a time, kept."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lmaas.client import Client
from servers import Running, serving

PROMPT = [{"role": "user", "content": "hello world"}]
TRIES = 3
"""So often what is to happen at once may be tried, as the machine may be busy."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    home = Path(shutil.copytree(language_home, tmp_path_factory.mktemp("settings") / "home"))
    with serving(home, engine="torch", max_sequences=1, cached_models="tiny") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key=server.call_key, max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "tiny", "messages": PROMPT, "max_tokens": 8, "temperature": 0}
    return client.chat.completions.with_raw_response.create(**(given | more))


def ps(server: Running) -> dict[str, Any]:
    (row,) = httpx.get(f"{server.url}/api/workers", headers=server.admin).json()
    return dict(row)


def test_the_engine_torch_answers_through_its_worker(
    server: Running, client: openai.OpenAI
) -> None:
    whole = chat(client).parse()
    assert whole.usage.completion_tokens == 8
    pieces = chat(client, stream=True, extra_body={"cache": False}).parse()
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    status = ps(server)
    assert status["engine"] == "torch"
    assert "set by engine=torch" in status["reason"]
    biased = chat(client, logit_bias={"9": 100}, logprobs=True, top_logprobs=2).parse()
    told = biased.choices[0].logprobs.content
    assert len({token.token for token in told}) == 1
    assert all(len(token.top_logprobs) == 2 for token in told)


def test_a_prompt_alone_is_scored(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "hello world", "echo": True, "logprobs": 2}
    alone = client.completions.create(**asked, max_tokens=0)
    (choice,) = alone.choices
    assert (choice.text, choice.finish_reason) == ("hello world", "length")
    assert alone.usage is not None
    assert alone.usage.completion_tokens == 0
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == "hello world"
    assert len(choice.logprobs.tokens or ()) == alone.usage.prompt_tokens
    scores = choice.logprobs.token_logprobs or []
    assert scores[0] is None
    assert all(score <= 0 for score in scores[1:])
    longer = client.completions.create(**asked, max_tokens=2, temperature=0).choices[0].logprobs
    assert longer is not None
    assert (longer.token_logprobs or [])[: len(scores)] == scores


def test_a_model_s_deterministic_answers_are_kept(client: openai.OpenAI) -> None:
    def told(**more: Any) -> str | None:
        value: str | None = chat(client, **more).headers.get("x-lmaas-cache")
        return value

    asked: dict[str, Any] = {"seed": 7, "max_tokens": 5}
    assert [told(**asked), told(**asked)] == ["miss", "hit"]
    assert told(**asked, extra_body={"cache": False}) is None
    assert told(temperature=1) is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_hang_up_frees_a_place_in_the_queue(server: Running, *, stream: bool) -> None:
    """Before it has begun: `queued` counts who waits and who runs."""
    long = {"model": "tiny", "messages": PROMPT, "n": 128, "max_tokens": 480, "ignore_eos": True}
    url = f"{server.url}/v1/chat/completions"
    times: list[float] = []
    before = cancelled(server)
    first = long | {"stream": True}
    with httpx.stream("POST", url, json=first, headers=server.caller, timeout=60) as running:
        pieces = running.iter_bytes()
        assert next(pieces)
        for _ in range(TRIES):
            waiting = hang_on(server, long | {"stream": stream})
            wait_for(server, 2)
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)  # it has not begun
            waiting.close()
            begun = time.monotonic()
            wait_for(server, 1)
            times.append(time.monotonic() - begun)
            if times[-1] <= 1:
                break
    assert min(times) <= 1, times
    wait_for(server, 0)
    deadline = time.monotonic() + 10
    while cancelled(server) < before + 1 + len(times):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cancelled(server: Running) -> int:
    with Client(server.url, server.key) as admin:
        return sum(row.cancelled for row in admin.usage().data)


def hang_on(server: Running, body: dict[str, Any]) -> socket.socket:
    """A connection that has sent a request and waits."""
    url = httpx.URL(server.url)
    request = httpx.Request("POST", f"{url}/v1/chat/completions", json=body, headers=server.caller)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    connection = socket.create_connection((url.host, url.port or 80))
    path = request.url.raw_path.decode()
    connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    return connection


def wait_for(server: Running, queued: int) -> None:
    deadline = time.monotonic() + 30
    while ps(server)["queued"] != queued:
        assert time.monotonic() < deadline
        time.sleep(0.02)
