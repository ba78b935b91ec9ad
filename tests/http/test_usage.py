"""Limits, budgets and usage through a real server: who may see what, and what survives a kill."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ir_models import STEPS_PER_S, Models, slow
from lmaas.accounts.journal import FOLDER, read_spools
from lmaas.accounts.records import Limits, Price
from lmaas.accounts.rows import SERVER_ENDED
from lmaas.client import Client
from lmaas.errors import Forbidden, InsufficientQuota, NotFound
from servers import Running, png, serving


def call(server: Running, key: str, seed: int = 1) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/models/digits", content=png(seed), headers=headers, timeout=60)


@pytest.fixture(scope="module")
def counted(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose prices and limits may be changed."""
    home = tmp_path_factory.mktemp("counted") / "home"
    shutil.copytree(digits_home, home)
    with serving(home) as running:
        yield running


@pytest.fixture
def admin(counted: Running) -> Iterator[Client]:
    with Client(counted.url, counted.key) as client:
        yield client


def test_200_at_once_against_a_budget_for_10(counted: Running, admin: Client) -> None:
    admin.set_price("digits", Price(request_micro=7))
    record, key = admin.create_key("ten", ("call",), Limits(budget_micro=70, period="month"))
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: call(counted, key), range(200)))
    assert sorted(a.status_code for a in answers) == [200] * 10 + [429] * 190
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert refused.json()["code"] == "insufficient_quota"
    (row,) = admin.usage(key_id=record.id).data
    assert (row.requests, row.cost_micro) == (10, 70)
    with Client(counted.url, key) as client, pytest.raises(InsufficientQuota):
        client.predict("digits", png())


def test_the_rate_is_told_with_every_answer(counted: Running, admin: Client) -> None:
    record, key = admin.create_key("two a minute", ("call",), Limits(requests_per_minute=2))
    first, second, third = (call(counted, key) for _ in range(3))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert second.headers["x-ratelimit-reset-requests"].endswith("s")
    assert third.status_code == 429
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert third.headers["x-ratelimit-reset-requests"].endswith("s")
    assert third.json()["code"] == "rate_limit_exceeded"
    admin.set_limits(record.id, Limits())
    answer = call(counted, key)
    assert answer.status_code == 200
    assert "x-ratelimit-limit-requests" not in answer.headers


def test_a_limit_from_the_command_line_is_seen_at_once(counted: Running, admin: Client) -> None:
    record, key = admin.create_key("cli", ("call",))
    assert call(counted, key).status_code == 200
    argv = [sys.executable, "-m", "lmaas", "--home", str(counted.home), "keys", "limits"]
    argv += [record.id, "--rpm", "1"]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)
    assert admin.limits(record.id) == Limits(requests_per_minute=1)
    assert [call(counted, key).status_code for _ in range(2)] == [200, 429]


def test_the_tenant_bounds_all_its_keys(counted: Running, admin: Client) -> None:
    keys = [admin.create_key(name, ("call",))[1] for name in ("a", "b")]
    admin.set_limits(None, Limits(requests_per_minute=2))
    try:
        assert admin.limits() == Limits(requests_per_minute=2)
        codes = [call(counted, key).status_code for key in (*keys, *keys)]
        assert codes == [200, 200, 429, 429]
        admin.set_limits(None, Limits(concurrent=1, tokens_per_minute=1))
        assert call(counted, keys[0]).status_code == 200
    finally:
        admin.set_limits(None, Limits())


def test_an_owner_sees_its_own_usage_and_the_operator_all(counted: Running, admin: Client) -> None:
    mine, key = admin.create_key("mine", ("call",))
    other, other_key = admin.create_key("other", ("call",))
    for owner, count in ((key, 3), (other_key, 2)):
        for _ in range(count):
            call(counted, owner)
    bad = httpx.post(
        f"{counted.url}/models/digits", content=b"x", headers={"authorization": f"Bearer {key}"}
    )
    assert bad.status_code == 400
    with Client(counted.url, key) as client:
        (row,) = client.usage(by=["key", "model"]).data
        assert (row.key, row.model, row.requests, row.failed) == (mine.id, "digits", 4, 1)
        assert client.usage(key_id=mine.id).data[0].requests == 4
        with pytest.raises(Forbidden):
            client.usage(key_id=other.id)
        for forbidden in (client.prices, client.limits):
            with pytest.raises(Forbidden):
                forbidden()
    found = {row.key: row.requests for row in admin.usage(by=["key"]).data}
    assert (found[mine.id], found[other.id]) == (4, 2)
    days = admin.usage(by=["day"]).data
    assert [row.day for row in days] == [time.strftime("%Y-%m-%d", time.gmtime())]


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("GET", "/v1/usage?start=yesterday", None, "start"),
        ("GET", "/v1/usage?group_by=tenant", None, "tenant"),
        ("PUT", "/api/limits", {"rpm": 3}, "rpm"),
        ("PUT", "/api/limits", {"requests_per_minute": 0}, "requests_per_minute"),
        ("PUT", "/api/limits", {"budget_micro": 1.5}, "budget_micro"),
        ("PUT", "/api/limits", {"period": "week"}, "week"),
        ("PUT", "/api/prices/digits", {"prompt_micro": -1}, "prompt_micro"),
        ("POST", "/api/keys", {"name": "x", "limits": {"concurrent": True}}, "concurrent"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    counted: Running, method: str, path: str, body: object, told: str
) -> None:
    answer = httpx.request(method, counted.url + path, json=body, headers=counted.admin)
    assert answer.status_code == 400
    assert told in answer.text


def test_limits_of_a_key_that_is_not_there(admin: Client) -> None:
    with pytest.raises(NotFound):
        admin.set_limits("0" * 12, Limits(concurrent=1))


def test_prices_are_set_and_listed(admin: Client) -> None:
    admin.set_price("later", Price(prompt_micro=150_000, completion_micro=600_000))
    assert {item.model for item in admin.prices()} >= {"later"}
    admin.set_price("later", Price())
    assert "later" not in {item.model for item in admin.prices()}


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_not_written_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.make("slow", slow)
    models.close()
    home = tmp_path / "home"

    def ask(server: Running, steps: float, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.url}/models/slow"
        httpx.post(url, json={"inputs": [steps]}, headers=headers, timeout=60)

    with serving(home) as server, Client(server.url, server.key) as admin:
        admin.set_price("slow", Price(request_micro=5))
        record, key = admin.create_key("killed", ("call",), Limits(budget_micro=25, concurrent=9))
        free, free_key = admin.create_key("free", ("call",))
        admin.set_price("slow", Price())
        ask(server, 1, free_key)
        admin.set_price("slow", Price(request_micro=5))
        ask(server, 1, key)
        assert admin.usage(key_id=record.id).data[0].requests == 1
        for _ in range(3):
            ask(server, 1, key)
            ask(server, 1, free_key)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(ask, server, STEPS_PER_S * 30, key)
            wait_for(lambda: is_noted(home, record.id))
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(httpx.HTTPError):
                running.result()
    with serving(home) as server, Client(server.url, server.key) as admin:
        (row,) = admin.usage(key_id=record.id).data
        assert (row.requests, row.failed, row.cost_micro) == (5, 1, 20)
        assert admin.usage(key_id=free.id).data[0].requests == 4
        assert not list((home / FOLDER).glob("*.spool"))
        with Client(server.url, key) as client:
            assert client.predict("slow", [1.0])
            with pytest.raises(InsufficientQuota, match=r"0\.000025"):
                client.predict("slow", [1.0])
    with sqlite3.connect(home / "lmaas.db") as connection:
        query = "SELECT count(*), count(DISTINCT request_id) FROM usage WHERE key_id = ?"
        assert connection.execute(query, (record.id,)).fetchone() == (6, 6)
        query = "SELECT cost_micro FROM usage WHERE error_code = ?"
        assert connection.execute(query, (SERVER_ENDED,)).fetchall() == [(0,)]
    connection.close()


def is_noted(home: Path, key_id: str) -> bool:
    """Whether a request of a key is noted as running."""
    try:
        running, _ = read_spools((home / FOLDER).glob("*.spool"))
    except FileNotFoundError:
        return False
    return any(note.key_id == key_id for note in running.values())


def test_a_caller_that_hangs_up_leaves_a_row_and_its_place(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.make("slow", slow)
    models.close()
    with serving(tmp_path / "home") as server, Client(server.url, server.key) as admin:
        record, key = admin.create_key("one", ("call",), Limits(concurrent=1))
        headers = {"authorization": f"Bearer {key}"}
        url, body = f"{server.url}/models/slow", {"inputs": [float(STEPS_PER_S * 2)]}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, headers=headers, timeout=httpx.Timeout(30, read=0.7))

        def ended() -> bool:
            data = admin.usage(key_id=record.id).data
            return data[0].cancelled == 1

        wait_for(ended)
        with Client(server.url, key) as client:
            assert client.predict("slow", [1.0])
