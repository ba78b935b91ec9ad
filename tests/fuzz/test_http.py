"""Requests drawn from our own OpenAPI document: answers or refusals, and a server as before.

Each operation gets bodies that fit its schema, and bodies that do not. Optional fields come and go,
and names of models are mostly those that are there, so that some requests reach the engines.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
import requests
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode

from fuzz.effort import effort
from lmaas.config import Settings
from lmaas.http.doors import door_of
from lmaas.http.openapi import document
from lmaas.http.routes import ROUTES
from lmaas.service import Service
from lmaas.types import TENANT
from servers import Running, serving


def described() -> dict[str, Any]:
    """The server's own description, without what a recipe's task says of its other keys: these are
    more conditions side by side than schemathesis draws from."""
    whole = document(ROUTES)
    for part in whole["components"]["schemas"].values():
        part.pop("allOf", None)
    return whole


SCHEMA = schemathesis.openapi.from_dict(described())
OPERATIONS: dict[str, Any] = {
    one.ok().label: one.ok() for one in cast(Any, SCHEMA).get_all_operations()
}
REFS = ("digits", "tiny", "digits:1", "tiny@none", "tiny:9", "no-such-model")
CALLS = ("/infer", "/models/{ref}", "/pipeline/", "/completions", "/ready", "/config", "/stats",
         "/card", "/curves", "/versions")  # fmt: skip
"""Paths below which models are called or looked at. Elsewhere they would be removed or changed."""
TOKENS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "num_predict",
)
MOST_TOKENS = 4
BY_DESIGN = {501, 502, 503, 504, 507}
"""What a server answers for others, or for what it lacks: each says what to do."""
SLOWEST_S = 60.0
GROWTH_BYTES = 96 << 20


class Fuzzed:
    """The server that all operations share, and how it was before."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.session = requests.Session()
        self.client = httpx.Client(base_url=running.url, headers=running.admin, timeout=SLOWEST_S)
        self.process = psutil.Process(running.pid)
        self.rss = 0

    def healthy(self) -> None:
        assert self.client.get("/health/live").status_code == 200
        assert self.client.get("/v1/models").status_code == 200
        self.client.put("/api/limits", json={}).raise_for_status()
        assert not [one for one in self.client.get("/api/workers").json() if one["restarts"]]


@pytest.fixture(scope="module")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory, digits_home: Path, language_home: Path
) -> Iterator[Fuzzed]:
    home = tmp_path_factory.mktemp("fuzzed") / "home"
    shutil.copytree(language_home, home)
    with contextlib.closing(Service(Settings(home=str(digits_home)))) as source:
        version = source.catalog.get(TENANT, "digits")
        folder = source.registry.unpack(
            version, home.parent / "digits", ("source", "compiled", "sample")
        )
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        service.registry.add(TENANT, version.manifest, version.parity, folder)
    # Models that are asked for elsewhere are not there; nothing leaves this machine.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "HF_ENDPOINT", "http://127.0.0.1:9")
        with serving(home) as running:
            fuzzed = Fuzzed(running)
            with fuzzed.client, fuzzed.session:
                yield fuzzed


@st.composite
def asked(draw: st.DrawFn, label: str) -> Any:
    """A request that fits the operation's description, or nearly."""
    operation = OPERATIONS[label]
    modes = [GenerationMode.POSITIVE]
    if operation.body:
        modes.append(GenerationMode.NEGATIVE)
    mode = draw(st.sampled_from(modes))
    case = draw(operation.as_strategy(generation_mode=mode))
    body = case.body
    if isinstance(body, dict) and draw(st.booleans()):
        schema = operation.body[0].definition.get("schema", {}) if operation.body else {}
        needed = set(schema.get("required", ()))
        kept = draw(st.sets(st.sampled_from(sorted(set(body) - needed) or [""])))
        case.body = body = {name: body[name] for name in body if name in needed | kept}
    for place in (
        (body, body.get("parameters"), body.get("options")) if isinstance(body, dict) else ()
    ):
        if isinstance(place, dict):
            _bound(place)
    if isinstance(body, dict) and "model" in body and draw(st.integers(0, 3)):
        case.body["model"] = draw(st.sampled_from(REFS))
    if "ref" in (case.path_parameters or {}) and reads(label) and draw(st.integers(0, 3)):
        case.path_parameters["ref"] = draw(st.sampled_from(REFS))
    return case


def reads(label: str) -> bool:
    method, path = label.split(" ")
    return method in ("GET", "POST") and any(path.rstrip("/").endswith(end) or end in path
                                              for end in CALLS) and "load" not in path \
        and not path.endswith(("/stop", "/compress"))  # fmt: skip


def _bound(place: dict[str, Any]) -> None:
    """Few tokens: how long an engine works is not what is looked for here."""
    for name in TOKENS:
        if isinstance(place.get(name), int | float) and place[name] > MOST_TOKENS:
            place[name] = MOST_TOKENS


@pytest.mark.parametrize("label", OPERATIONS)
def test_a_request_is_answered_or_refused(fuzzed: Fuzzed, label: str) -> None:
    @effort(2, share=0.1)
    @given(asked(label))
    def run(case: Any) -> None:
        before = time.monotonic()
        response = case.call(
            base_url=fuzzed.running.url,
            session=fuzzed.session,
            headers=fuzzed.running.admin,
            timeout=SLOWEST_S,
        )
        assert time.monotonic() - before < SLOWEST_S
        path = response.request.url.removeprefix(fuzzed.running.url).partition("?")[0]
        _check(path, response)

    run()
    fuzzed.healthy()
    fuzzed.rss = fuzzed.rss or fuzzed.process.memory_info().rss


def _check(path: str, response: Any) -> None:
    status, told = response.status_code, response.content
    shown = f"{response.request.method} {path}: {status} {told[:500]!r}"
    assert status < 500 or status in BY_DESIGN, shown
    if status < 400:
        return
    body = response.json()
    match door_of(path):
        case "openai":
            error = body["error"]
            assert error["message"], shown
            assert isinstance(error["type"], str), shown
            assert {"param", "code"} <= error.keys(), shown
        case "anthropic":
            assert body["type"] == "error", shown
            assert body["error"]["message"], shown
            assert body["error"]["details"]["error_code"], shown
        case "own":
            assert body["status"] == status, shown
            assert body["detail"], shown
            assert status < 500 or body["hint"], shown
        case "compreface":
            assert isinstance(body["code"], int), shown
            assert body["message"], shown
        case _:
            assert isinstance(body["error"], str), shown
            assert body["error"], shown
    if status == 503:
        assert response.headers.get("retry-after"), shown


def test_the_server_has_not_grown(fuzzed: Fuzzed) -> None:
    fuzzed.healthy()
    assert fuzzed.process.memory_info().rss - fuzzed.rss < GROWTH_BYTES
