"""Limits and budgets of a language model under 200 requests at once, and what was billed."""

import asyncio
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lmaas.accounts.records import Limits, Price
from lmaas.client import Client
from servers import Running, serving

AT_ONCE = 200
TOKENS = 4
MICRO_A_TOKEN = Price(prompt_micro=1_000_000, completion_micro=2_000_000)
"""One millionth for each token of a prompt, two for each of an answer."""
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello world"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    """A server whose language model costs something."""
    home = tmp_path_factory.mktemp("priced") / "home"
    shutil.copytree(language_home, home)
    with serving(home) as running:
        yield running


@pytest.fixture
def admin(priced: Running) -> Iterator[Client]:
    with Client(priced.url, priced.key) as client:
        client.set_price("tiny", MICRO_A_TOKEN)
        yield client


def ask_at_once(server: Running, key: str) -> list[httpx.Response]:
    """The answers to `AT_ONCE` requests, every second one streamed."""

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.url}/v1/chat/completions"
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=120) as client:
            return await asyncio.gather(
                *(
                    client.post(url, json=ASKED | (streamed if number % 2 else {}))
                    for number in range(AT_ONCE)
                )
            )

    return asyncio.run(all_of_them())


def used(answer: httpx.Response) -> tuple[int, int]:
    """The tokens of prompt and answer that an answer tells, streamed or not."""
    if answer.headers["content-type"].startswith("application/json"):
        usage = answer.json()["usage"]
    else:
        *_, last, done = answer.text.strip().split("\n\n")
        assert done == "data: [DONE]"
        usage = json.loads(last.removeprefix("data: "))["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def cost_of(prompt: int, answer: int) -> int:
    return MICRO_A_TOKEN.cost(prompt, answer)


def test_200_at_once_against_a_budget_for_10(priced: Running, admin: Client) -> None:
    _, free = admin.create_key("free", ("call",))
    url, headers = f"{priced.url}/v1/chat/completions", {"authorization": f"Bearer {free}"}
    prompt, answer = used(httpx.post(url, json=ASKED, headers=headers, timeout=60))
    assert answer == TOKENS
    each = cost_of(prompt, answer)
    budget = 10 * each + each - 1
    record, key = admin.create_key("ten", ("call",), Limits(budget_micro=budget))
    answers = ask_at_once(priced, key)
    ran = [one for one in answers if one.status_code == 200]
    refused = [one for one in answers if one.status_code == 429]
    assert (len(ran), len(refused)) == (10, 190)
    for one in refused:
        assert one.headers["x-should-retry"] == "false"
        assert "retry-after" not in one.headers
        error = one.json()["error"]
        assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    told = [used(one) for one in ran]
    (row,) = admin.usage(key_id=record.id).data
    assert (row.requests, row.failed, row.cancelled) == (10, 0, 0)
    assert row.prompt_tokens == sum(prompt for prompt, _ in told)
    assert row.completion_tokens == sum(answer for _, answer in told)
    assert row.cost_micro == sum(cost_of(*pair) for pair in told) == 10 * each
    with closing(sqlite3.connect(priced.home / "lmaas.db")) as connection:
        query = "SELECT count(*), count(DISTINCT request_id), sum(cost_micro) FROM usage"
        rows = connection.execute(f"{query} WHERE key_id = ?", (record.id,)).fetchall()
    assert rows == [(10, 10, row.cost_micro)]


def test_the_stock_client_does_not_retry_what_no_retry_pays_for(
    priced: Running, admin: Client
) -> None:
    asked = 0

    def count(request: object) -> None:
        nonlocal asked
        asked += 1

    _, key = admin.create_key("poor", ("call",), Limits(budget_micro=1))
    http = openai.DefaultHttpxClient(event_hooks={"request": [count]})
    url = f"{priced.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key=key, max_retries=5, http_client=http) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=TOKENS
        )
    assert caught.value.code == "insufficient_quota"
    assert asked == 1


def test_200_at_once_against_10_a_minute(priced: Running, admin: Client) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=1_000_000)
    record, key = admin.create_key("10 a minute", ("call",), limits)
    start = time.monotonic()
    answers = ask_at_once(priced, key)
    flowed_back = int((time.monotonic() - start) * 10 / 60)
    ran = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(ran) + len(refused) == AT_ONCE
    assert 10 <= len(ran) <= 10 + flowed_back
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "10"
        assert 0 <= int(answer.headers["x-ratelimit-remaining-requests"]) < 10
        assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        assert answer.headers["x-ratelimit-limit-tokens"] == "1000000"
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 1_000_000
    for answer in refused:
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(answer.headers["retry-after"]) <= 6
        assert "x-should-retry" not in answer.headers
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    (row,) = admin.usage(key_id=record.id).data
    assert (row.requests, row.completion_tokens) == (len(ran), len(ran) * TOKENS)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/completions", {"prompt": "a"}, "rate_limit_error"),
        ("/v1/responses", {"input": "a"}, "rate_limit_error"),
        ("/v1/messages", {"messages": ASKED["messages"], "max_tokens": 1}, "rate_limit_error"),
    ],
)
def test_every_door_tells_what_is_left(
    priced: Running, admin: Client, path: str, body: dict[str, Any], kind: str
) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100_000)
    _, key = admin.create_key("one a minute", ("call",), limits)
    most = "max_output_tokens" if "input" in body else "max_tokens"
    asked = {"model": "tiny", most: 1, **body}
    headers = {"authorization": f"Bearer {key}"}
    first, second = (
        httpx.post(priced.url + path, json=asked, headers=headers, timeout=60) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (200, 429), second.text
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(second.headers["retry-after"]) >= 1
    assert second.json()["error"]["type"] == kind


def test_tokens_that_do_not_fit_a_minute_are_told(priced: Running, admin: Client) -> None:
    record, key = admin.create_key("few", ("call",), Limits(tokens_per_minute=100))
    headers = {"authorization": f"Bearer {key}"}
    url = f"{priced.url}/v1/chat/completions"
    never = httpx.post(url, json=ASKED | {"max_tokens": 200}, headers=headers, timeout=60)
    assert never.status_code == 429
    assert never.headers["x-should-retry"] == "false"
    assert never.headers["x-ratelimit-remaining-tokens"] == "100"
    answers = [httpx.post(url, json=ASKED, headers=headers, timeout=60) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert "x-should-retry" not in refused[0].headers
    assert int(refused[0].headers["retry-after"]) >= 1
    assert 0 <= int(refused[0].headers["x-ratelimit-remaining-tokens"]) < 100
    (row,) = admin.usage(key_id=record.id).data
    assert row.requests == len(answers) - len(refused)
