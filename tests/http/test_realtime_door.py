"""Who may open a live session, how many, and what ends it."""

import asyncio
import json
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT
from servers import Running, serving


def address(server: Running, query: str = "?intent=transcription") -> str:
    return f"{server.url.replace('http', 'ws', 1)}/v1/realtime{query}"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def created(client: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(await asyncio.wait_for(client.recv(), 20))
    assert event["type"] == "session.created"
    return event


def refused(server: Running, query: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
    """The status and body of a handshake that is refused."""

    async def run() -> tuple[int, dict[str, Any]]:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address(server, query), **more):
                pass
        answer = caught.value.response
        return answer.status_code, json.loads(answer.body or b"{}")

    return asyncio.run(run())


def test_a_key_in_a_header_or_a_browsers_subprotocol(server: Running) -> None:
    async def run() -> None:
        async with connect(address(server), additional_headers=bearer(server.call_key)) as client:
            event = await created(client)
            assert event["session"]["type"] == "transcription"
            assert client.subprotocol is None
        offered = ["realtime", f"openai-insecure-api-key.{server.call_key}"]
        async with connect(
            address(server, ""), subprotocols=[Subprotocol(each) for each in offered]
        ) as client:
            await created(client)
            assert client.subprotocol == "realtime"

    asyncio.run(run())


def test_without_a_key_that_may_there_is_no_session(server: Running) -> None:
    assert refused(server)[0] == 401
    wrong = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.sk-lmaas-no")]
    assert refused(server, subprotocols=wrong)[0] == 401
    both: dict[str, Any] = {
        "additional_headers": bearer(server.key),
        "subprotocols": [Subprotocol(f"openai-insecure-api-key.{server.call_key}")],
    }
    assert refused(server, **both)[0] == 401


def test_pages_of_other_origins_have_none(server: Running) -> None:
    headers = bearer(server.call_key)
    evil: dict[str, Any] = {"additional_headers": headers, "origin": Origin("https://evil.example")}
    assert refused(server, **evil)[0] == 403

    async def run() -> None:
        for origin in ("https://app.example", server.url):
            async with connect(
                address(server), additional_headers=headers, origin=Origin(origin)
            ) as client:
                await created(client)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("?intent=conversation", 400, "intent"),
        ("?call_id=rtc_1", 400, "call_id"),
        ("?model=none", 404, None),
        ("?model=digits", 400, "model"),
    ],
)
def test_what_is_asked_for_is_checked_first(
    server: Running, query: str, status: int, param: str | None
) -> None:
    got, body = refused(server, query, additional_headers=bearer(server.call_key))
    assert got == status
    if param is not None:
        assert body["error"]["param"] == param


def ask(server: Running, *lines: str) -> bytes:
    parts = urlsplit(server.url)
    head = ["GET /v1/realtime HTTP/1.1", f"Host: {parts.netloc}",
            f"Authorization: Bearer {server.call_key}", *lines, "", ""]  # fmt: skip
    with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=20) as connection:
        connection.sendall("\r\n".join(head).encode())
        return connection.recv(65536)


UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
NONCE = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_what_is_no_handshake_is_told_so(server: Running) -> None:
    answer = httpx.get(f"{server.url}/v1/realtime", headers=server.caller)
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["sec-websocket-version"] == "13"
    assert answer.json()["error"]["code"] == "upgrade_required"
    assert ask(server, *UPGRADE, NONCE).startswith(b"HTTP/1.1 101 ")
    old = [line.replace("13", "8") for line in UPGRADE]
    assert ask(server, *old, NONCE).startswith(b"HTTP/1.1 426 ")
    assert ask(server, *UPGRADE).startswith(b"HTTP/1.1 400 ")
    assert ask(server, *UPGRADE, NONCE, NONCE).startswith(b"HTTP/1.1 400 ")
    assert ask(server, *UPGRADE, "Sec-WebSocket-Key: c2hvcnQ=").startswith(b"HTTP/1.1 400 ")
    post = httpx.post(f"{server.url}/v1/realtime", headers=server.caller)
    assert post.status_code == 405


def test_binary_messages_end_it(server: Running) -> None:
    async def run() -> None:
        async with connect(address(server), additional_headers=bearer(server.call_key)) as client:
            await created(client)
            await client.send(b"\x00\x01")
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), 20)
            assert client.close_code == 1003

    asyncio.run(run())


def test_a_revoked_key_a_bound_and_a_drain(tmp_path: Path, digits_home: Path) -> None:
    home = Path(shutil.copytree(digits_home, tmp_path / "home"))
    service = Service(Settings(home=str(home)))
    record, key = service.create_key(TENANT, "ears", ("call",))

    async def run(server: Running) -> ClientConnection:
        url, headers = address(server), bearer(key)
        async with connect(url, additional_headers=headers) as first:
            await created(first)
            async with connect(url, additional_headers=headers) as second:
                await created(second)
                with pytest.raises(InvalidStatus) as caught:
                    await connect(url, additional_headers=headers)
                assert caught.value.response.status_code == 429
            async with connect(url, additional_headers=headers) as second:
                await created(second)  # The one before is counted no more.
                await asyncio.to_thread(service.revoke_key, TENANT, record.id)
                for client in (first, second):
                    with pytest.raises(ConnectionClosed):
                        await asyncio.wait_for(client.recv(), 10)
                    assert client.close_code == 1008
        left = await connect(url, additional_headers=bearer(server.call_key))
        await created(left)
        return left

    async def closed(left: ClientConnection) -> int | None:
        await asyncio.wait_for(left.wait_closed(), 20)
        return left.close_code

    with asyncio.Runner() as runner:
        with serving(home, max_sessions=2) as server:
            left = runner.run(run(server))
        assert runner.run(closed(left)) == 1001
    service.close()


def test_a_session_has_an_end(tmp_path: Path, digits_home: Path) -> None:
    home = Path(shutil.copytree(digits_home, tmp_path / "home"))

    async def run(server: Running) -> None:
        async with connect(address(server), additional_headers=bearer(server.call_key)) as client:
            await created(client)
            error = json.loads(await asyncio.wait_for(client.recv(), 20))
            assert error["error"]["code"] == "timed_out"
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), 20)
            assert client.close_code == 1000

    with serving(home, session_timeout_s=1) as server:
        asyncio.run(run(server))
