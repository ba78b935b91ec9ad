"""Each bound of `http.bounds` holds, on one connection and on many, and memory with it."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from lmaas.http.bounds import BOUNDS, SOCKET_BOUNDS
from servers import Running, serving

CONNECTIONS = 500
MAX_BODY_BYTES = 1 << 20
"""Small, so that no body is read whole."""
GROWTH_BYTES = 200 << 20
"""What 500 connections may have the server hold: a head, a buffer and Python's own share each."""


def request(server: Running, *more: str, path: str = "/v1/models") -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}",
             f"Authorization: Bearer {server.call_key}", *more, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode()


def head(server: Running) -> Iterator[bytes]:
    yield request(server, f"X: {'x' * BOUNDS.head_bytes}")


def headers(server: Running) -> Iterator[bytes]:
    yield request(server, *(f"X{number}: 1" for number in range(BOUNDS.headers)))


def trailers(server: Running) -> Iterator[bytes]:
    chunked = request(server, "Transfer-Encoding: chunked", path="/v1/embeddings")
    yield chunked.replace(b"GET", b"POST") + b"0\r\n"
    for number in range(20 * BOUNDS.trailer_bytes // 1000):
        yield f"T{number}: {'x' * 1000}\r\n".encode()


def pipelined(server: Running) -> Iterator[bytes]:
    yield request(server) * (BOUNDS.pipelined + 20)


def body(server: Running) -> Iterator[bytes]:
    size = 64 * BOUNDS.body_buffer_bytes
    told = f"Content-Length: {size + MAX_BODY_BYTES}"
    yield request(server, told, path="/v1/embeddings").replace(b"GET", b"POST")
    for _ in range(64):
        yield bytes(BOUNDS.body_buffer_bytes)


def routes(server: Running) -> Iterator[bytes]:
    for number in range(3):
        path = f"/v1/models/{number}{'x' * (BOUNDS.head_bytes - 1000)}"
        yield request(server, path=path)


def many_routes(server: Running) -> Iterator[bytes]:
    for number in range(4):
        yield request(server, path=f"/v1/models/{number}-{time.monotonic_ns()}")


def host(server: Running) -> Iterator[bytes]:
    whose = urlsplit(server.url).netloc
    yield request(server).replace(whose.encode(), b"x" * (BOUNDS.host_bytes + 1) + b".com")


HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip


def ahead(server: Running) -> Iterator[bytes]:
    yield request(server, *HANDSHAKE)  # of a route that is no WebSocket
    for _ in range(64):
        yield bytes(BOUNDS.ahead_bytes)


def message(server: Running) -> Iterator[bytes]:
    """One message that is as long as it may be, without its end; of a key with other sessions."""
    yield request(server, *HANDSHAKE, path="/v1/realtime")
    size = SOCKET_BOUNDS.message_bytes
    yield b"\x01\xff" + struct.pack("!Q", size) + bytes(4)
    for _ in range(size >> 16):
        yield bytes(1 << 16)


PUSHED: dict[str, Callable[[Running], Iterator[bytes]]] = {
    "head_bytes": head,
    "headers": headers,
    "trailer_bytes": trailers,
    "pipelined": pipelined,
    "body_buffer_bytes": body,
    "kept_routes": many_routes,
    "route_chars": routes,
    "host_bytes": host,
    "ahead_bytes": ahead,
}
REFUSED = {"head_bytes": b" 431 ", "headers": b" 431 ", "trailer_bytes": b" 431 ",
           "host_bytes": b" 403 "}  # fmt: skip
"""What is said of what is beyond; the others are bounds of what is kept or read ahead."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("bounds") / "home"
    with serving(home, max_body_bytes=MAX_BODY_BYTES) as running:
        yield running


def push(server: Running, name: str) -> bytes:
    """Send all that it takes to be beyond the bound; what came back until the server closed."""
    parts = urlsplit(server.url)
    assert parts.port
    with socket.create_connection(("127.0.0.1", parts.port), timeout=20) as connection:
        with contextlib.suppress(OSError):
            for part in PUSHED[name](server):
                connection.sendall(part)
        connection.settimeout(5)
        got = b""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                got += part
    return got


def test_every_bound_is_pushed() -> None:
    assert set(PUSHED) == set(BOUNDS._fields)


@pytest.mark.parametrize("name", BOUNDS._fields)
def test_what_is_beyond_is_refused_or_dropped(server: Running, name: str) -> None:
    got = push(server, name)
    assert got.startswith(b"HTTP/1.1 ")
    if name in REFUSED:
        assert REFUSED[name] in got.split(b"\r\n", 1)[0]


@pytest.mark.parametrize("name", [*BOUNDS._fields, "message_bytes"])
def test_memory_holds_on_many_connections(server: Running, name: str) -> None:
    pushes = PUSHED | {"message_bytes": message}
    process = psutil.Process(server.pid)
    parts = urlsplit(server.url)
    assert parts.port
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        open_ones = [
            stack.enter_context(socket.create_connection(("127.0.0.1", parts.port), timeout=20))
            for _ in range(CONNECTIONS)
        ]
        for connection in open_ones:
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                for part in pushes[name](server):
                    connection.send(part)
        deadline = time.monotonic() + 1.5
        most = 0
        while time.monotonic() < deadline:
            most = max(most, process.memory_info().rss)
            time.sleep(0.05)
    assert most - before < GROWTH_BYTES, f"{(most - before) >> 20} MiB"


def test_the_server_still_answers(server: Running, tmp_path: Path) -> None:
    assert push_one(server).startswith(b"HTTP/1.1 200 ")


def push_one(server: Running) -> bytes:
    parts = urlsplit(server.url)
    assert parts.port
    with socket.create_connection(("127.0.0.1", parts.port), timeout=20) as connection:
        connection.sendall(request(server))
        return connection.recv(1 << 16)
