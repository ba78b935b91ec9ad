"""What is billed when a server is told to stop, or loses its worker, while it streams."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmaas.accounts.records import Price
from lmaas.client import Client
from servers import Running, serving, usage_rows

PRICE = Price(prompt_micro=1_000_000, completion_micro=2_000_000)
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello world"}],
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
PATH = "/v1/chat/completions"


@pytest.fixture
def home(tmp_path: Path, language_home: Path) -> Path:
    """A home of its own, with `tiny`."""
    return Path(shutil.copytree(language_home, tmp_path / "home"))


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's events; the last one is {"done": True} where all is well."""
    for line in lines:
        if line:
            data = line.removeprefix("data: ")
            yield {"done": True} if data == "[DONE]" else json.loads(data)


def test_streams_end_when_the_server_is_told_to_stop(home: Path) -> None:
    """Then the server ends too, though the client keeps its connections."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(home, drain_timeout_s=3600))
        admin = stack.enter_context(Client(server.url, server.key))
        admin.set_price("tiny", PRICE)
        record, key = admin.create_key("drained", ("call",))
        headers = {"authorization": f"Bearer {key}"}
        client = stack.enter_context(httpx.Client(base_url=server.url, headers=headers, timeout=60))
        other = stack.enter_context(httpx.Client(base_url=server.url, headers=headers, timeout=60))
        streams = []
        for number in range(4):
            body = ASKED | {"n": 64, "max_tokens": 440 + number}
            response = stack.enter_context(client.stream("POST", PATH, json=body))
            assert response.status_code == 200
            stream = events(response.iter_lines())
            assert "choices" in next(stream)
            streams.append(stream)
        os.kill(server.pid, signal.SIGTERM)
        health = 200
        while health == 200:  # the signal is on its way
            # Another connection each time: the drain closes those that wait for a next request.
            health = httpx.get(f"{server.url}/health/ready", timeout=60).status_code
        assert health == 503
        whole = {**ASKED, "stream": False, "stream_options": None}
        refused = other.post(PATH, json=whole)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "unavailable"
        told = []
        for stream in streams:
            *_, last, done = stream
            assert done == {"done": True}
            told.append((last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]))
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert [answer for _, answer in told] == [64 * (440 + number) for number in range(4)]
    *failed, first, second, third, fourth = usage_rows(home, record.id)
    assert [first, second, third, fourth] == [
        ("ok", prompt, answer, PRICE.cost(prompt, answer)) for prompt, answer in told
    ]
    assert failed == [("failed", 0, 0, 0)]


def test_a_stream_that_takes_too_long_ends_in_an_error(home: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(home, drain_timeout_s=0.5))
        admin = stack.enter_context(Client(server.url, server.key))
        record, key = admin.create_key("cut", ("call",))
        headers = {"authorization": f"Bearer {key}"}
        body = ASKED | {"n": 128, "max_tokens": 480, "logprobs": True}
        response = stack.enter_context(
            httpx.stream("POST", server.url + PATH, json=body, headers=headers, timeout=60)
        )
        stream = events(response.iter_lines())
        told = [next(stream)]
        os.kill(server.pid, signal.SIGTERM)
        told += stream
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert {"done": True} not in told
    assert told[-1]["error"]["code"] == "unavailable"
    ((status, prompt, answer, _),) = usage_rows(home, record.id)
    assert (status, answer) == ("failed", delivered(told))
    assert prompt > 0


def test_what_a_killed_worker_delivered_is_billed_once(home: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(home))
        admin = stack.enter_context(Client(server.url, server.key))
        admin.set_price("tiny", PRICE)
        record, key = admin.create_key("robbed", ("call",))
        headers = {"authorization": f"Bearer {key}"}
        client = stack.enter_context(httpx.Client(base_url=server.url, headers=headers, timeout=60))
        whole = {**ASKED, "stream": False, "stream_options": None, "max_tokens": 4}
        prompt = client.post(PATH, json=whole).json()["usage"]["prompt_tokens"]
        body = ASKED | {"n": 128, "max_tokens": 480, "logprobs": True}
        with client.stream("POST", PATH, json=body) as response:
            stream = events(response.iter_lines())
            told = [next(stream) for _ in range(20)]
            kill_the_worker(server)
            told += stream
        assert {"done": True} not in told
        assert told[-1]["error"]["code"] == "unavailable"
        assert 20 <= delivered(told) < 128 * 480
        again = client.post(PATH, json=whole)
        assert again.status_code == 200
        assert again.json()["usage"]["completion_tokens"] == 4
        ok = admin.usage(key_id=record.id).data[0]
        assert (ok.requests, ok.failed) == (3, 1)
    each = ("ok", prompt, 4, PRICE.cost(prompt, 4))
    robbed = ("failed", prompt, delivered(told), PRICE.cost(prompt, delivered(told)))
    assert usage_rows(home, record.id) == [robbed, each, each]


def test_what_a_killed_server_delivered_is_billed_once(home: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(home))
        admin = stack.enter_context(Client(server.url, server.key))
        admin.set_price("tiny", PRICE)
        record, key = admin.create_key("robbed", ("call",))
        headers = {"authorization": f"Bearer {key}"}
        client = stack.enter_context(httpx.Client(base_url=server.url, headers=headers, timeout=60))
        whole = {**ASKED, "stream": False, "stream_options": None, "max_tokens": 4}
        prompt = client.post(PATH, json=whole).json()["usage"]["prompt_tokens"]
        body = ASKED | {"n": 48, "max_tokens": 440, "logprobs": True}
        told: list[dict[str, Any]] = []
        with client.stream("POST", PATH, json=body) as response:
            stream = events(response.iter_lines())
            told.extend(next(stream) for _ in range(20))
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(httpx.HTTPError):
                told.extend(stream)
    for _ in range(2):  # the second start finds nothing more
        with serving(home) as server, Client(server.url, server.key) as admin:
            row = admin.usage(key_id=record.id).data[0]
            assert (row.requests, row.failed) == (2, 1)
    billed, each = usage_rows(home, record.id)
    assert each == ("ok", prompt, 4, PRICE.cost(prompt, 4))
    status, told_prompt, tokens, cost = billed
    assert (status, told_prompt, cost) == ("failed", prompt, PRICE.cost(prompt, tokens))
    # What a client has not read yet is lost with the connection: a slow one is far behind.
    assert 20 <= delivered(told) <= tokens < 440 * 48


def kill_the_worker(server: Running) -> None:
    (row,) = httpx.get(f"{server.url}/api/workers", headers=server.admin).json()
    os.kill(row["pid"], signal.SIGKILL)


def delivered(told: list[dict[str, Any]]) -> int:
    """How many tokens the events of a stream with log probabilities hold."""
    return sum(
        len(choice["logprobs"]["content"])
        for event in told
        for choice in event.get("choices", ())
        if choice["logprobs"] is not None
    )
