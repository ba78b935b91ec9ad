"""A worker that dies midway: each protocol's stream ends in its error, and nothing says done."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import Running, serving

USER = [{"role": "user", "content": "hello world"}]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    """A server whose worker is killed again and again."""
    home = tmp_path_factory.mktemp("fragile") / "home"
    shutil.copytree(language_home, home)
    with serving(home) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "error", "done"),
    [
        ("/v1/chat/completions", {"messages": USER, "max_tokens": 400}, '{"error":', "[DONE]"),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 400}, '{"error":', "[DONE]"),
        ("/v1/messages", {"messages": USER, "max_tokens": 400}, "event: error", "message_stop"),
        ("/v1/responses", {"input": "a", "max_output_tokens": 400}, "event: error", '"usage":{'),
    ],
)
def test_the_stream_ends_in_an_error(
    fragile: Running, path: str, body: dict[str, Any], error: str, done: str
) -> None:
    with httpx.Client(base_url=fragile.url, headers=fragile.admin, timeout=60) as client:
        text, killed = done, set[int]()
        for seed in range(5):
            asked = {"model": "tiny", **body, "seed": seed}
            text = "\n".join(killed_midway(client, path, asked, killed))
            if done not in text:  # or it was over before it was killed
                break
        assert done not in text
        assert error in text
        assert "Send the request again" in text
        name = "max_output_tokens" if "input" in body else "max_tokens"
        assert client.post(path, json={**asked, name: 2}).status_code == 200


def killed_midway(
    client: httpx.Client, path: str, asked: dict[str, Any], killed: set[int]
) -> list[str]:
    pid = None
    while pid is None or pid in killed:  # The one before was killed a moment ago.
        client.post("/api/models/tiny/load").raise_for_status()
        (worker,) = client.get("/api/workers").json()
        pid = worker["pid"]
    with client.stream("POST", path, json={**asked, "stream": True}) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        told = [next(lines) for _ in range(8)]
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        return [*told, *lines]
