"""A request that harms its worker before the engine sees it harms itself alone.

The tokenizer's own pattern backtracks without end on some texts, as patterns do that come with
models. Encoder or language model, short text or long: the worker lives, or the request is
quarantined after the second death; others are answered.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from checkpoints import make_qwen3
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving

SLOW = {
    "type": "Split",
    "pattern": {"Regex": "(x+x+)+y"},
    "behavior": "Isolated",
    "invert": False,
}
EVIL = {"short": "x" * 60, "long": "hello " * 4000 + "x" * 60}
MOST_RESTARTS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_qwen3(tmp_path_factory.mktemp("slow") / "checkpoint")
    path = folder / "tokenizer.json"
    config = json.loads(path.read_text("utf-8"))
    before = config["pre_tokenizer"]
    config["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [SLOW, before]}
    path.write_text(json.dumps(config), "utf-8")
    home = folder.parent / "home"
    service = Service(Settings(home=str(home)))
    options = PushOptions(name="tiny", task="text-generation")
    asyncio.run(service.catalog.push(TENANT, folder, options))
    service.close()
    with serving(home, request_timeout_s=20) as running:
        yield running


def ask(server: Running, text: str) -> httpx.Response:
    body: dict[str, Any] = {"model": "tiny", "prompt": text, "max_tokens": 1}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=server.caller, timeout=120)


def restarts(server: Running) -> int:
    workers = httpx.get(f"{server.url}/api/workers", headers=server.admin, timeout=60).json()
    return sum(int(worker["restarts"]) for worker in workers)


@pytest.mark.parametrize("kind", EVIL)
def test_a_pattern_that_backtracks_ends_its_own_request(server: Running, kind: str) -> None:
    assert ask(server, "hello").status_code == 200
    before = restarts(server)
    for _ in range(3):
        answer = ask(server, EVIL[kind])
        assert 400 <= answer.status_code < 600
    assert ask(server, "hello").status_code == 200
    assert restarts(server) - before <= MOST_RESTARTS
