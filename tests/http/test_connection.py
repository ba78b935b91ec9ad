"""HTTP as bytes on a socket: what a careless or hostile client may send."""

import asyncio
import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lmaas.config import Settings
from lmaas.http.bounds import BOUNDS
from lmaas.http.connections import Connections
from lmaas.http.exchange import Exchange
from servers import Running, png, serving


@contextlib.contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    parts = urlsplit(server.url)
    assert parts.port
    with socket.create_connection(("127.0.0.1", parts.port), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of each response in `data`."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", 0))
        found.append((int(lines[0].split()[1]), headers, rest[:length]))
        data = rest[length:]
    return found


def head(server: Running, method: str = "GET", path: str = "/v1/models", *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}",
             f"Authorization: Bearer {server.call_key}", *more, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode()


def ask(server: Running, data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    with connected(server) as connection:
        connection.sendall(data)
        return answers(read_all(connection))


def test_requests_sent_ahead_are_answered_in_order(server: Running) -> None:
    image = png()
    post = head(server, "POST", "/models/digits", f"Content-Length: {len(image)}") + image
    data = post + head(server) + head(server, "GET", "/v1/models/none", "Connection: close")
    first, second, third = ask(server, data)
    assert (first[0], second[0], third[0]) == (200, 200, 404)
    assert json.loads(first[2])[0]["score"] > 0
    assert json.loads(second[2])["object"] == "list"
    assert third[1]["connection"] == "close"
    assert len({a[1]["x-request-id"] for a in (first, second, third)}) == 3


def test_a_body_in_chunks_and_pieces(server: Running) -> None:
    image = png()
    top = head(server, "POST", "/models/digits", "Transfer-Encoding: chunked", "Connection: close")
    with connected(server) as connection:
        for start in range(0, len(top), 40):
            connection.sendall(top[start : start + 40])
        for start in range(0, len(image), 100):
            part = image[start : start + 100]
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        ((status, _, _),) = answers(read_all(connection))
    assert status == 200


def test_continue_is_said_before_a_body_is_read(server: Running) -> None:
    image = png()
    more = (f"Content-Length: {len(image)}", "Expect: 100-continue", "Connection: close")
    with connected(server) as connection:
        connection.sendall(head(server, "POST", "/models/digits", *more))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(image)
        assert answers(read_all(connection))[0][0] == 200


def test_nonsense_after_a_request_does_not_cost_its_answer(server: Running) -> None:
    image = png()
    post = head(server, "POST", "/models/digits", f"Content-Length: {len(image)}") + image
    ((status, headers, _),) = ask(server, post + b"nonsense\r\n\r\n")
    assert status == 200
    assert headers["connection"] == "close"
    chunked = head(server, "POST", "/models/digits", "Transfer-Encoding: chunked")
    ((status, _, body),) = ask(server, chunked + b"5\r\nhello\r\nnonsense\r\n")
    assert status == 400
    assert "HTTP" in json.loads(body)["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_another_protocol_is_not_taken(server: Running, chunked: bool) -> None:
    """As Java's client makes it with its first request: the body and other requests follow."""
    image = png()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(image)}"
    offer = ("Connection: Upgrade, HTTP2-Settings", length, "Upgrade: h2c", "HTTP2-Settings: AAEA")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(image), image) if chunked else image
    post = head(server, "POST", "/models/digits", *offer) + body
    get = head(server, "GET", "/v1/models", offer[0], *offer[2:])
    last = head(server, "GET", "/v1/models", "Connection: close")
    first, second, third = ask(server, post + get + last)
    assert (first[0], second[0], third[0]) == (200, 200, 200)
    assert json.loads(first[2])[0]["score"] > 0


def test_head_has_no_body(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(head(server, "HEAD", "/v1/models", "Connection: close"))
        data = read_all(connection)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"\r\n\r\n")
    assert int(answers(data)[0][1]["content-length"]) > 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)  # fmt: skip
def test_what_is_no_request(server: Running, data: bytes, status: int) -> None:
    answered = ask(server, data)
    assert [a[0] for a in answered] == [status]
    assert "error" in json.loads(answered[0][2])
    assert httpx.get(f"{server.url}/health/live").is_success


def test_a_body_that_is_too_large_is_refused_while_it_comes(server: Running) -> None:
    sent = 0
    with connected(server) as connection:
        more = ("Transfer-Encoding: chunked",)
        connection.sendall(head(server, "POST", "/models/digits", *more))
        connection.settimeout(0.001)
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        answer = b""
        while sent < 100_000_000 and not answer:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                connection.sendall(block)
            sent += 65536
            connection.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 20_000_000
    declared = head(server, "POST", "/models/digits", "Content-Length: 100000000")
    assert ask(server, declared)[0][0] == 413


def test_a_client_that_goes_away_is_forgotten(server: Running) -> None:
    for _ in range(20):
        with connected(server) as connection:
            connection.sendall(head(server, "POST", "/models/digits", "Content-Length: 5000"))
            connection.sendall(b"half")
    response = httpx.post(f"{server.url}/models/digits", content=png(), headers=server.caller)
    assert response.status_code == 200


class Wire(asyncio.Transport):
    """A socket of which a test decides when its bytes come."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.mark.parametrize("pieces", [1, 4])
def test_who_waits_for_an_answer_is_watched(pieces: int) -> None:
    """A body that comes faster than it is read stops the reading, but not beyond its end."""

    async def scenario() -> bool:
        got: list[bytes] = []
        gone = asyncio.Event()

        async def app(exchange: Exchange) -> None:
            got.append(await exchange.body(10 * BOUNDS.body_buffer_bytes))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                gone.set()
                raise

        wire = Wire()
        connection = Connections(app, Settings()).make()
        connection.connection_made(wire)
        size = 2 * BOUNDS.body_buffer_bytes
        connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(pieces):
            connection.data_received(b"x" * (size // pieces))
        await asyncio.sleep(0)
        assert [len(body) for body in got] == [size]
        watched = wire.reading
        connection.connection_lost(None)
        await asyncio.wait_for(gone.wait(), 30)
        return watched

    assert asyncio.run(scenario())


def test_a_request_that_came_just_before_the_drain_is_answered() -> None:
    async def scenario() -> list[bytes]:
        async def app(exchange: Exchange) -> None:
            exchange.send(b"there")

        connections = Connections(app, Settings())
        loop = asyncio.get_running_loop()
        server = await loop.create_server(connections.make, "127.0.0.1", 0)
        answers = []
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            for draining in (False, True):
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if draining:
                    await connections.drain(10)
                answers.append(await asyncio.wait_for(loop.sock_recv(client, 65536), 30))
            assert not connections.open
            answers.append(await asyncio.wait_for(loop.sock_recv(client, 65536), 30))
        server.close()
        return answers

    first, second, end = asyncio.run(scenario())
    assert first.endswith(b"there")
    assert second.endswith(b"there")
    assert end == b""


def test_slow_and_too_many_clients(tmp_path: Path, digits_home: Path) -> None:
    home = Path(shutil.copytree(digits_home, tmp_path / "home"))
    with serving(home, header_timeout_s=1, max_connections=6) as server:
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(connected(server)) for _ in range(3)]
            slow[0].sendall(head(server)[:30])
            slow[1].sendall(head(server, "POST", "/models/digits", "Content-Length: 9999") + b"x")
            deadline = time.monotonic() + 15
            open_: set[socket.socket] = set(slow)
            got = dict.fromkeys(slow, b"")
            while open_ and time.monotonic() < deadline:
                for connection in list(open_):
                    connection.settimeout(0.1)
                    with contextlib.suppress(TimeoutError):
                        part = connection.recv(65536)
                        got[connection] += part
                        if not part:
                            open_.discard(connection)
                with contextlib.suppress(OSError):
                    slow[0].sendall(b"a")
                # Who is quick is served beside them.
                assert httpx.get(f"{server.url}/health/live").is_success
        assert not open_
        assert got[slow[0]].startswith(b"HTTP/1.1 408 ")
        assert got[slow[1]].startswith(b"HTTP/1.1 408 ")
        assert got[slow[2]] == b""
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(connected(server)).sendall(head(server)[:30])
            deadline = time.monotonic() + 15
            while ask(server, head(server))[0][0] != 503:
                assert time.monotonic() < deadline
