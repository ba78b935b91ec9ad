"""Webhooks over HTTP and on the command line, at servers that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from lmaas.client import Client
from lmaas.recipe import DataChoice, Recipe
from receiver import receiving
from servers import Running, serving

PATIENCE_S = 60.0
RECIPE = Recipe(name="a", task="tabular", data=DataChoice(train="/no/such/file.csv"))
SETTINGS: dict[str, Any] = {
    "webhook_http": "true",
    "webhook_allow": "127.0.0.1",
    "max_running_jobs": 0,
}


def deliveries(running: Running, webhook: str) -> list[dict[str, object]]:
    url = f"{running.url}/api/webhooks/{webhook}/deliveries"
    told = httpx.get(url, headers=running.admin)
    assert told.status_code == 200
    return list(told.json())


def test_a_message_outlives_the_server_that_could_not_deliver_it(tmp_path: Path) -> None:
    with receiving(500, 200) as receiver:
        with serving(tmp_path, **SETTINGS) as running, Client(running.url, running.key) as client:
            url = f"{running.url}/api/webhooks"
            made = httpx.post(url, headers=running.admin, json={"url": receiver.url})
            assert made.status_code == 201
            webhook = made.json()["webhook"]["id"]
            assert made.json()["secret"].startswith("whsec_")
            listed = httpx.get(url, headers=running.admin)
            assert [one["id"] for one in listed.json()] == [webhook]
            assert "whsec_" not in listed.text
            assert httpx.get(url, headers=running.caller).status_code == 403
            client.cancel_job(client.train(RECIPE).id)
            deadline = time.monotonic() + PATIENCE_S
            while not deliveries(running, webhook)[0]["attempts"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(running.pid, signal.SIGKILL)
            # The process ends before the block checks how.
            while os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT) is None:
                time.sleep(0.01)
        with serving(tmp_path, **SETTINGS) as running:
            while not deliveries(running, webhook)[0]["delivered_at"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            gone = httpx.delete(f"{running.url}/api/webhooks/{webhook}", headers=running.admin)
            assert gone.json()["url"] == receiver.url
        assert len(receiver.messages) == 2
        assert len({got.headers["webhook-id"] for got in receiver.messages}) == 1


def test_a_server_reaches_nothing_inside_unless_it_is_told_to(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path, max_running_jobs=0) as running:
        url = f"{running.url}/api/webhooks"
        for given in (receiver.url, receiver.url.replace("http", "https"), "https://[::1]:1/"):
            refused = httpx.post(url, headers=running.admin, json={"url": given})
            assert refused.status_code == 400
            assert "url" in refused.text
        unknown = {"url": "https://example.com", "events": ["model.deleted"]}
        assert httpx.post(url, headers=running.admin, json=unknown).status_code == 400


def test_the_command_line_has_the_same(tmp_path: Path) -> None:
    def lmaas(*argv: str) -> str:
        command = [sys.executable, "-m", "lmaas", "webhooks", *argv, "--home", str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    webhook, secret = lmaas("add", "https://example.com/hook", "--event", "failed").split()
    assert secret.startswith("whsec_")
    listed = lmaas("list")
    assert webhook in listed
    assert "failed" in listed
    assert "succeeded" not in listed
    assert secret not in listed
    assert lmaas("deliveries", webhook).strip().startswith("id")
    assert webhook in lmaas("rm", webhook)
    assert webhook not in lmaas("list")
