"""Web pages of allowed origins, as their browsers ask; and probes that know no name."""

import re
import socket

import httpx
import pytest

from lmaas.http.route import Route
from lmaas.http.routes import ROUTES
from servers import Running, png

OPEN = {route.path for route in ROUTES if route.access == "open"}
ORIGIN = "https://app.example"
ALLOWED = "access-control-allow-origin"


def ask_first(server: Running, path: str, origin: str = ORIGIN, **more: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-os",
        **more,
    }
    return httpx.options(server.url + path, headers=headers)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_a_browser_asks_first_without_a_key(server: Running, route: Route) -> None:
    answer = ask_first(server, re.sub(r"\{\w+\}", "x", route.path))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers[ALLOWED] == ORIGIN
    assert answer.headers["access-control-allow-methods"] == ", ".join(route.operations)
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def test_the_answer_may_be_read_by_the_page(server: Running) -> None:
    headers = {**server.caller, "origin": ORIGIN}
    done = httpx.post(f"{server.url}/models/digits", content=png(), headers=headers)
    wrong = httpx.get(f"{server.url}/v1/models/none", headers=headers)
    closed = httpx.get(f"{server.url}/v1/models", headers={"origin": ORIGIN})
    for answer, status in ((done, 200), (wrong, 404), (closed, 401)):
        assert answer.status_code == status
        assert answer.headers[ALLOWED] == ORIGIN
        assert answer.headers["vary"] == "origin"
    assert ALLOWED not in httpx.get(f"{server.url}/v1/models", headers=server.caller).headers


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil", "null"])
def test_other_origins_get_nothing(server: Running, origin: str) -> None:
    asked = ask_first(server, "/v1/chat/completions", origin)
    called = httpx.get(f"{server.url}/v1/models", headers={**server.caller, "origin": origin})
    for answer in (asked, called):
        assert answer.status_code == 403
        assert ALLOWED not in answer.headers


def test_what_a_browser_asks_is_bounded(server: Running) -> None:
    names = {"access-control-request-headers": "a," * 5000}
    assert ask_first(server, "/v1/models", **names).status_code == 400
    assert ask_first(server, "/none").status_code == 404
    # Without the question of a browser it is a method like any other.
    assert httpx.options(f"{server.url}/v1/models", headers={"origin": ORIGIN}).status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN))
@pytest.mark.parametrize(
    "head", [b"HTTP/1.0\r\n", b"HTTP/1.1\r\nhost: 10.1.2.3:8000\r\n", b"HTTP/1.1\r\n",
             b"HTTP/1.1\r\nhost: pod\r\norigin: http://evil.example\r\n"]
)  # fmt: skip
def test_a_probe_knows_no_name(server: Running, path: str, head: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET %b %bconnection: close\r\n\r\n" % (path.encode(), head))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert ALLOWED.encode() not in answer


def test_all_other_paths_know_their_name(server: Running) -> None:
    for path in ("/v1/models", "/metrics", "/health/live/x", "/"):
        answer = httpx.get(server.url + path, headers={**server.admin, "host": "10.1.2.3"})
        assert answer.status_code == 403
