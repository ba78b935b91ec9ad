"""Every route that runs a model asks the ledger first; the others say why they need not."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from lmaas.http.routes import ROUTES
from servers import Running

USER = {"role": "user", "content": "hello"}
CHAT = {"model": "tiny", "messages": [USER], "max_tokens": 2}
TENSORS = {"inputs": [{"name": "input", "shape": [1, 784], "datatype": "FP32", "data": [0] * 784}]}

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "/models/{ref}": ("models", {"inputs": "hello"}),
    "/models/{ref}/pipeline/{task}": ("models", {"inputs": "hello"}),
    "/v2/models/{ref}/infer": ("infer", TENSORS),
    "/v2/models/{ref}/versions/{version}/infer": ("infer", TENSORS),
    "/v1/chat/completions": ("chat.completions", CHAT),
    "/models/{ref}/v1/chat/completions": ("chat.completions", CHAT),
    "/v1/completions": ("completions", {"model": "tiny", "prompt": "a", "max_tokens": 2}),
    "/v1/embeddings": ("embeddings", {"model": "vectors", "input": "a"}),
    "/v1/messages": ("messages", CHAT),
    "/v1/messages/count_tokens": (
        "messages.count_tokens",
        {"model": "tiny", "messages": [USER]},
    ),
    "/v1/responses": ("responses", {"model": "tiny", "input": "a", "max_output_tokens": 2}),
    "/api/chat": ("ollama.chat", {"model": "tiny", "messages": [USER], "stream": False}),
    "/api/generate": ("ollama.generate", {"model": "tiny", "prompt": "a", "stream": False}),
    "/api/embed": ("ollama.embed", {"model": "vectors", "input": "a"}),
    "/api/embeddings": ("ollama.embed", {"model": "vectors", "prompt": "a"}),
}
"""The routes that run a model: under which name the ledger keeps them, and a body."""
RERANK = "needs a model for text-ranking; tests/e2e/test_embeddings.py exhausts its limit"
TRANSLATE = "needs a model for translation; tests/e2e/test_translation_server.py exhausts its limit"
HEARS = "needs a model that hears; tests/e2e/test_speech.py exhausts its limit"
LISTENS = "needs a model that hears; tests/e2e/test_realtime_whisper.py exhausts its limit"
FACES = "needs a model for faces; tests/e2e/test_faces.py exhausts its limit"
SPEAKS = "needs a model that speaks; tests/e2e/test_text_to_speech.py exhausts its limit"
ELSEWHERE = {
    "/v1/rerank": RERANK,
    "/rerank": RERANK,
    "/translate": TRANSLATE,
    "/v1/audio/transcriptions": HEARS,
    "/v1/audio/translations": HEARS,
    "/v1/audio/speech": SPEAKS,
    "/v1/realtime": LISTENS,
    "/v1/galleries/{name}/subjects/{subject}/photos": FACES,
    "/v1/galleries/{name}/subjects/{subject}/verify": FACES,
    "/v1/galleries/{name}/identify": FACES,
    "/api/v1/recognition/faces": FACES,
    "/api/v1/recognition/faces/{image_id}/verify": FACES,
    "/api/v1/recognition/recognize": FACES,
    "/api/v1/verification/verify": FACES,
    "/api/v1/detection/detect": FACES,
}
FREE = {
    "/v1/responses/{id}": "a row that was kept is read or removed",
    "/v1/responses/{id}/input_items": "a row that was kept is read",
    "/v1/models": "a list of names",
    "/v1/models/{ref}": "a row is read",
    "/v2": "says who answers",
    "/v2/models/{ref}": "a row is read",
    "/v2/models/{ref}/ready": "a row is read",
    "/v2/models/{ref}/config": "a row is read",
    "/v2/models/{ref}/stats": "numbers in memory are read",
    "/v2/models/stats": "numbers in memory are read",
    "/v2/models/{ref}/versions/{version}": "a row is read",
    "/v2/models/{ref}/versions/{version}/ready": "a row is read",
    "/v2/models/{ref}/versions/{version}/config": "a row is read",
    "/v2/models/{ref}/versions/{version}/stats": "numbers in memory are read",
    "/v2/repository/index": "a list of names",
    "/openapi.json": "the same text for all",
    "/docs": "the same text for all",
    "/v1/usage": "what was used is read",
    "/api/tags": "a list of names",
    "/api/ps": "numbers in memory are read",
    "/api/show": "a row is read",
    "/api/version": "the same text for all",
    "/languages": "rows are read",
    "/v1/galleries/{name}/subjects": "rows are read",
    "/v1/galleries/{name}/subjects/{subject}": "rows are changed or removed",
    "/v1/galleries/{name}/photos/{photo}": "a row is removed",
    "/api/v1/recognition/subjects": "rows are read, added or removed",
    "/api/v1/recognition/subjects/{subject}": "rows are changed or removed",
    "/api/v1/recognition/faces/delete": "rows are removed",
    "/api/v1/recognition/faces/{image_id}": "a row is removed",
    "/api/v1/recognition/faces/{image_id}/img": "says that no image is kept",
    "/detect": "runs of letters are looked up in a table of the server's",
}
"""Routes for who calls models that run none, and why they need no reservation."""


class Spent(NamedTuple):
    """A key whose limit of requests is used up, and one without limits."""

    url: str
    spent: dict[str, str]
    fresh: dict[str, str]
    admin: dict[str, str]


@pytest.fixture(scope="module")
def spent(language: Running) -> Iterator[Spent]:
    with httpx.Client(base_url=language.url, headers=language.admin) as client:
        upstream = {"url": "http://127.0.0.1:9/v1", "model": "m"}
        body = {"name": "vectors", "task": "embedding", "upstream": upstream}
        assert client.post("/api/upstreams", json=body).status_code == 201
        keys = [client.post("/api/keys", json={"name": name}).json() for name in ("a", "b")]
        limits = {"requests_per_minute": 1}
        client.put(f"/api/keys/{keys[0]['record']['id']}/limits", json=limits).raise_for_status()
        headers = [{"authorization": f"Bearer {key['key']}"} for key in keys]
        first = client.post("/v1/messages/count_tokens", json=CALLS["/v1/messages/count_tokens"][1],
                            headers=headers[0])  # fmt: skip
        assert first.status_code == 200, first.text
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        yield Spent(language.url, headers[0], headers[1], language.admin)
        client.delete("/api/models/vectors")


def path_of(path: str) -> str:
    named = path.replace("{ref}", "tiny").replace("{version}", "1")
    return re.sub(r"\{\w+\}", "text-generation", named)


def test_every_route_reserves_or_says_why_not() -> None:
    called = {route.path for route in ROUTES if route.access == "call"}
    assert called == CALLS.keys() | FREE.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("path", [path for path in CALLS if not path.startswith("/v2")])
def test_who_has_used_up_a_limit_runs_no_model(spent: Spent, path: str) -> None:
    answer = httpx.post(spent.url + path_of(path), json=CALLS[path][1], headers=spent.spent)
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", FREE)
def test_what_runs_no_model_is_answered_without_a_limit(spent: Spent, path: str) -> None:
    (operations,) = (route.operations for route in ROUTES if route.path == path)
    method = next(each for each in ("GET", "DELETE", "POST") if each in operations)
    bodies: dict[str, Any] = {
        "/api/show": {"model": "tiny"},
        "/detect": {"q": "hello"},
        "/api/v1/recognition/faces/delete": ["none"],
    }
    body = bodies.get(path, {})
    answer = httpx.request(method, spent.url + path_of(path), json=body, headers=spent.spent)
    known = (400,) if path.endswith("/img") else (200, 404)  # no image is kept: says so
    assert answer.status_code in known, answer.text


def test_a_count_is_a_row_of_no_tokens(spent: Spent) -> None:
    body = CALLS["/v1/messages/count_tokens"][1]
    url = f"{spent.url}/v1/messages/count_tokens"
    assert httpx.post(url, json=body, headers=spent.fresh).json()["input_tokens"] > 0
    refused = httpx.post(url, json={**body, "model": "vectors"}, headers=spent.fresh)
    assert refused.status_code == 400
    (row,) = httpx.get(f"{spent.url}/v1/usage", headers=spent.fresh).json()["data"]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, 0, 0)


def test_tensors_are_counted_too(server: Running) -> None:
    with httpx.Client(base_url=server.url, headers=server.admin) as client:
        key = client.post("/api/keys", json={"name": "tensors"}).json()
        limits = {"requests_per_minute": 1}
        client.put(f"/api/keys/{key['record']['id']}/limits", json=limits).raise_for_status()
        client.headers["authorization"] = f"Bearer {key['key']}"
        assert client.post("/v2/models/digits/infer", json=TENSORS).status_code == 200
        for path in ("/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"):
            assert client.post(path, json=TENSORS).status_code == 429
