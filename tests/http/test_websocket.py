"""WebSockets as bytes on a socket: what a stock client, a careless and a hostile one may send."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from wsproto.utilities import generate_accept_token

from fuzz.effort import effort
from lmaas.config import Settings
from lmaas.http.bounds import SOCKET_BOUNDS, SocketBounds
from lmaas.http.connections import Connections
from lmaas.http.exchange import Exchange
from lmaas.http.websocket import SocketClosed, WebSocket

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """A frame as RFC 6455, section 5.2 has it."""
    size = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    return head + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


class Wire:
    """A link that keeps what is written, and whether it reads."""

    def __init__(self) -> None:
        self.sent = b""
        self.reads = True
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.sent += data

    def want_more(self) -> None:
        self.reads = True

    def hold(self) -> None:
        self.reads = False

    async def flowing(self) -> None:
        return

    def hang_up(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    @property
    def code(self) -> int:
        """The code of the close frame, which is the last one sent."""
        at = self.sent.rindex(b"\x88")
        return int(struct.unpack("!H", self.sent[at + 2 : at + 4])[0])


async def echo(socket: WebSocket) -> None:
    while True:
        message = await socket.receive()
        await socket.send(message if isinstance(message, str) else message.hex())


@asynccontextmanager
async def listening(
    talk: Callable[[WebSocket], Awaitable[None]] = echo,
) -> AsyncIterator[tuple[int, Connections]]:
    """A server whose every request opens a WebSocket, and its port."""

    async def app(exchange: Exchange) -> None:
        key = exchange.headers[b"sec-websocket-key"]
        socket = exchange.switch(generate_accept_token(key), None)
        try:
            await talk(socket)
        except SocketClosed:
            pass
        finally:
            exchange.hang_up()

    connections = Connections(app, Settings())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections.make, "127.0.0.1", 0)
    watch = asyncio.ensure_future(connections.watch())
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        watch.cancel()
        server.close()
        await connections.drain(0)


def test_a_stock_client_is_echoed() -> None:
    async def run() -> None:
        async with listening() as (port, _), connect(f"ws://127.0.0.1:{port}/") as client:
            assert "sec-websocket-extensions" not in client.response.headers  # type: ignore[union-attr]
            for text in ("", "a", "é" * 70_000, "word " * 100_000):
                await client.send(text)
                assert await client.recv() == text
            await client.send(b"\x00\xff")
            assert await client.recv() == "00ff"
            await client.send(["in ", "three ", "pieces"])
            assert await client.recv() == "in three pieces"
            pong = await client.ping()
            await asyncio.wait_for(pong, 10)
        assert client.close_code == 1000

    asyncio.run(run())


def test_messages_may_come_with_the_handshake() -> None:
    async def run() -> bytes:
        async with listening() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            writer.write(head + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n" + frame(TEXT, b"early"))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(7) == b"\x81\x05early"
            writer.write(frame(CLOSE, struct.pack("!H", 1000)))
            assert await reader.read() == b"\x88\x02\x03\xe8"
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


def test_a_drain_says_goodbye() -> None:
    async def run() -> None:
        async with listening() as (port, connections):
            async with connect(f"ws://127.0.0.1:{port}/") as client:
                await client.send("there")
                await client.recv()
                await connections.drain(10)
                with pytest.raises(websockets.ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1001
            assert not connections.open

    asyncio.run(run())


def test_a_peer_that_is_gone_ends_its_handler() -> None:
    ended = asyncio.Event()

    async def talk(socket: WebSocket) -> None:
        try:
            await echo(socket)
        except (asyncio.CancelledError, SocketClosed):
            ended.set()
            raise

    async def run() -> None:
        async with listening(talk) as (port, _):
            client = await connect(f"ws://127.0.0.1:{port}/")
            await client.send("half a")
            client.transport.abort()
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(run())


async def write_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write in steps, each within a second. Raises TimeoutError."""
    for start in range(0, len(data), 100_000):
        writer.write(data[start : start + 100_000])
        await asyncio.wait_for(writer.drain(), 1)


def test_a_reader_that_sleeps_is_not_read_either() -> None:
    """What one peer can have kept is bounded, however much it asks for."""

    async def run() -> None:
        async with listening() as (port, connections):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
            head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            writer.write(head + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            with pytest.raises(TimeoutError):
                await write_all(writer, frame(TEXT, b"x" * 100_000) * 2000)
            (connection,) = connections.open
            assert connection._transport is not None
            assert connection._transport.get_write_buffer_size() < 3_000_000
            writer.transport.abort()

    asyncio.run(run())


SMALL = SocketBounds(message_bytes=100, waiting_bytes=150, frames_per_s=50, idle_s=100.0)


def opened(bounds: SocketBounds = SOCKET_BOUNDS) -> tuple[Wire, WebSocket]:
    wire = Wire()
    return wire, WebSocket(wire, asyncio.get_running_loop(), bounds)


BAD = {
    "no mask": (frame(TEXT, b"a", masked=False), 1002),
    "invalid UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "cut UTF-8": (frame(TEXT, b"\xc3"), 1007),
    "a wrong opcode": (frame(3, b"a"), 1002),
    "a long ping": (frame(PING, b"a" * 126), 1002),
    "a ping in pieces": (frame(PING, b"a", fin=False), 1002),
    "nothing to go on": (frame(0, b"a"), 1002),
    "a message in a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"a"), 1002),
    "a reserved bit": (bytes([0xC1, 0x81]) + MASK + b"a", 1002),
    "a length of 2^63": (bytes([0x81, 0xFF]) + b"\xff" * 8 + MASK, 1002),
    "a long message": (frame(TEXT, b"a" * 101), 1009),
    "a length of 2^40": (bytes([0x81, 0xFF]) + struct.pack("!Q", 1 << 40) + MASK + MASK * 50, 1009),
    "many fragments": (frame(TEXT, b"a", fin=False) + frame(0, b"a" * 25, fin=False) * 4, 1009),
    "a goodbye of one byte": (frame(CLOSE, b"a"), 1002),
    "a code that is none": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
}  # fmt: skip


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
def test_what_is_no_websocket_ends_with_its_code(data: bytes, code: int) -> None:
    async def run() -> None:
        wire, socket = opened(SMALL)
        socket.received(data)
        assert wire.code == code
        socket.received(b"\x00" * 1000)  # dropped
        assert wire.code == code
        with pytest.raises(SocketClosed):
            await socket.receive()
        with pytest.raises(SocketClosed):
            await socket.send("late")
        assert wire.reads
        socket.check(asyncio.get_running_loop().time() + 6)
        assert wire.ended == "aborted"

    asyncio.run(run())


def test_messages_that_nobody_takes_stop_the_reading() -> None:
    async def run() -> None:
        wire, socket = opened(SMALL)
        socket.received(frame(TEXT, b"a" * 90) * 5)
        assert not wire.reads
        for _ in range(5):
            assert len(await socket.receive()) == 90
        assert wire.reads

    asyncio.run(run())


def test_a_flood_of_frames_is_taken_slowly() -> None:
    async def run() -> None:
        wire, socket = opened(SMALL)
        socket.received(frame(PING, b"") * 200)
        assert wire.sent == b"\x8a\x00" * 50
        held = [wire.reads]
        deadline = asyncio.get_running_loop().time() + 20
        while not held[-1]:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
            held.append(wire.reads)
        assert len(held) > 1
        assert wire.sent == b"\x8a\x00" * 200

    asyncio.run(run())


def test_a_silent_peer_is_asked_and_then_left() -> None:
    async def run() -> None:
        wire, socket = opened(SMALL)
        now = asyncio.get_running_loop().time()
        socket.check(now + 21)
        assert wire.sent == b"\x89\x00"
        socket.received(frame(PONG, b""))
        socket.check(now + 10)
        assert wire.sent == b"\x89\x00"
        socket.check(now + 22)
        assert wire.sent == b"\x89\x00" * 2
        socket.check(now + 43)
        assert wire.code == 1011
        wire, socket = opened(SMALL)
        socket.check(now + 101)
        assert wire.code == 1008

    asyncio.run(run())


async def _feed(data: bytes, cuts: list[int]) -> None:
    _, socket = opened(SMALL)
    start = 0
    for cut in sorted(cuts):
        socket.received(data[start:cut])
        start = max(start, cut)
    socket.received(data[start:])
    sizes = 0
    while socket._messages:
        message = await socket.receive()
        sizes += len(message)
    assert sizes <= len(data)
    assert socket._part_bytes <= SMALL.message_bytes
    socket.lost()
    with pytest.raises(SocketClosed):
        await socket.receive()


PIECES = st.one_of(
    st.binary(max_size=20),
    st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=130),
        fin=st.booleans(),
        masked=st.sampled_from([True, True, True, False]),
    ),
)


@given(
    data=st.lists(PIECES, max_size=8).map(b"".join),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
@effort(60)
def test_any_bytes_are_messages_or_refused(data: bytes, cuts: list[int]) -> None:
    asyncio.run(_feed(data, [min(cut, len(data)) for cut in cuts]))
