"""What reads bytes from outside, each as one function of bytes: it gives a result or refuses.

A target returns, or raises one of REFUSALS. Anything else is a find, and so is what takes longer
than SLOWEST_S. Hypothesis and atheris drive the same targets (test_decoders.py, coverage.py).
"""

import asyncio
import contextlib
import json
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from checkpoints import CHATML
from lmaas.accounts.call_counters import read_tally
from lmaas.accounts.journal import read_spools
from lmaas.accounts.stream_progress import StreamProgress
from lmaas.codecs import audio, image, strings, tensor
from lmaas.codecs import json as json_codec
from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.errors import LMaaSError
from lmaas.frameworks.sentencepiece import read_tokenizer
from lmaas.generation_types import ChatMessage, Format, GenerateRequest, Tool, check
from lmaas.http import body as http_body
from lmaas.http.bounds import SocketBounds
from lmaas.http.compression import inflate
from lmaas.http.connections import Connections
from lmaas.http.exchange import Exchange
from lmaas.http.realtime_body import BadEvent, SessionConfig, SessionUpdate, read_event, updated
from lmaas.http.routes import ROUTES
from lmaas.http.sse import unbroken
from lmaas.http.websocket import SocketClosed, WebSocket
from lmaas.runtime.language.pattern_grammar import Unfit, pattern
from lmaas.runtime.language.schema_grammar import call_grammar, calls_grammar, grammar
from lmaas.runtime.language.template import Loaded, Refused, Rendered, Rendering, Sources
from lmaas.runtime.language.template_helper import Service
from lmaas.runtime.language.text import Reader
from lmaas.runtime.messages import Decoder
from lmaas.types import TENSORS, ImageSpec, Payload, Signature, TensorSpec

Target = Callable[[bytes], None]

REFUSALS: Final = (LMaaSError, Unfit)
SLOWEST_S: Final = 5.0
"""Of processor time, for one input of at most LONGEST bytes."""
LONGEST: Final = 65_536
LIMITS: Final = Limits(max_image_pixels=1_000_000, max_elements=100_000, max_audio_s=60)
IMAGES: Final = (
    ImageSpec(height=28, width=28, channels=1, layout="flat"),
    ImageSpec(height=9, width=17, resize="crop", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
)
SIGNATURE: Final = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, 4)),
        TensorSpec(name="n", dtype="int8", shape=(-1, -1), axes=("", "t"), minimum=0, maximum=9),
        TensorSpec(name="s", dtype="string", shape=(-1,)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
    axes={"t": (1, 8)},
)
DTYPES: Final = (
    "float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool",
)  # fmt: skip
BODIES: Final = {
    repr(kind): msgspec.json.Decoder(kind)
    for route in ROUTES
    for operation in route.operations.values()
    for kind in operation.body
    if not isinstance(kind, str)
}
SCRATCH = tempfile.TemporaryDirectory(prefix="lmaas-fuzz-")


def checked(target: Target, data: bytes) -> None:
    """Run `target`; what it may not do fails."""
    before = time.process_time()
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged notes in images, which it then leaves out.
            warnings.simplefilter("ignore", UserWarning)
            target(data)
    except REFUSALS:
        pass
    assert time.process_time() - before < SLOWEST_S, f"slow: {data[:200]!r}"


def read_image(data: bytes) -> None:
    """An image file."""
    image.is_image(data)
    for spec in IMAGES:
        array = image.to_array(image.decode(data, spec, LIMITS), spec, "float32")
        assert array.size == spec.height * spec.width * spec.channels


def read_sound(data: bytes) -> None:
    """A sound file."""
    sizes = [0]
    for block in audio.blocks(data, 16_000, LIMITS):
        assert len(block)
        assert np.isfinite(block).all()
        sizes.append(len(block))
    assert 0 < sum(sizes) <= LIMITS.max_audio_s * 16_000 + 1


def read_json(data: bytes) -> None:
    """A JSON body, and what may be numbers in it."""
    given = json_codec.read_call(data)
    for dtype in DTYPES:
        try:
            array = json_codec.to_array(given.inputs, dtype, LIMITS, name="inputs")
        except LMaaSError:
            continue
        assert str(array.dtype) == dtype
        assert array.size <= LIMITS.max_elements
        assert array.dtype.kind != "f" or np.isfinite(array).all()


def read_pixels(data: bytes) -> None:
    """Numbers that are to be pixels."""
    given = json_codec.read_call(data).inputs
    pixels = json_codec.to_array(given, "float32", LIMITS, name="inputs")
    for spec in IMAGES:
        image.from_numbers(pixels, spec, "float32")


def read_tensors(data: bytes) -> None:
    """A body of the Open Inference Protocol; the first two bytes say where its JSON ends."""
    ends = int.from_bytes(data[:2], "little")
    for json_bytes in (None, ends):
        payload = Payload(media_type=TENSORS, body=data[2:], json_bytes=json_bytes)
        try:
            arrays, _ = tensor.read(payload, SIGNATURE, LIMITS)
        except LMaaSError:
            continue
        assert set(arrays) == {"x", "n", "s"}
        assert all(array.size <= LIMITS.max_elements for array in arrays.values())


def read_texts(data: bytes) -> None:
    """Texts as binary tensors have them."""
    found = strings.unpack(data, name="s")
    assert strings.pack(found).tobytes() == data


def read_bodies(data: bytes) -> None:
    """A JSON body of each route."""
    for decoder in BODIES.values():
        with contextlib.suppress(LMaaSError):
            http_body.decode(data, decoder)


def read_frames(data: bytes) -> None:
    """What a worker sends, in one piece and byte by byte: the same messages."""
    found: list[bytes] = []
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        decoder, messages = Decoder(), []
        try:
            for piece in pieces:
                messages += decoder.feed(piece)
        except msgspec.DecodeError:
            return
        found.append(msgspec.msgpack.encode(messages))  # in bytes a NaN equals itself
    assert found[0] == found[1]


def write_schema(data: bytes) -> None:
    """A JSON schema as a grammar, alone and as a tool's."""
    try:
        schema = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    if not isinstance(schema, dict):
        return
    check(
        GenerateRequest(
            messages=(ChatMessage(role="user", content="a"),),
            tools=(Tool(name="f", parameters=schema),),
            format=Format(kind="json_schema", schema=schema),
        )
    )
    for text_of in (grammar, partial(call_grammar, "f"), _calls):
        with contextlib.suppress(*REFUSALS):
            assert text_of(schema).startswith("root ::= ")


def _calls(schema: Any) -> str:
    return calls_grammar([("f", schema), ("g", schema)], parallel=True)


def write_pattern(data: bytes) -> None:
    """A regular expression as a grammar."""
    assert pattern(data.decode("utf-8", "replace"))


def write_numbers(data: bytes) -> None:
    """Bounds of numbers as grammars; brackets leave the ends out."""
    low, _, high = data.decode("ascii", "replace").partition(" ")
    schema: dict[str, Any] = {}
    for text, keyword in ((low, "Minimum"), (high, "Maximum")):
        bare = text.strip("()")
        name = keyword.lower() if bare == text else f"exclusive{keyword}"
        with contextlib.suppress(msgspec.DecodeError):
            schema[name] = msgspec.json.decode(bare.encode())
    for kind in ("integer", "number"):
        with contextlib.suppress(*REFUSALS):
            assert grammar({"type": kind, **schema}).startswith("root ::= ")


def render(data: bytes) -> None:
    """A conversation, or a template and a conversation, where templates are rendered."""
    service = Service()
    encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
    kinds = Loaded | Rendered | Refused
    source, _, rest = data.partition(b"\0")
    text = source.decode("utf-8", "replace") or CHATML
    told = decode(service.answer(encode(Sources({"default": text}, {}))), type=kinds)
    if isinstance(told, Refused):
        assert told.problem
        return
    for frame in (rest, encode(Rendering([{"role": "user", "content": "a"}], [], {}, True))):
        told = decode(service.answer(frame), type=kinds)
        assert isinstance(told, Loaded | Rendered) or told.problem


def take_apart(data: bytes) -> None:
    """An answer's text: what is found does not depend on how it was cut."""
    text = data[1:].decode("utf-8", "replace")
    flags = {
        name: bool(data[:1] and data[0] >> bit & 1)
        for bit, name in enumerate(("reasoning", "thinking", "tools", "formatted"))
    }
    found = []
    for pieces in ([text], list(text)):
        reader = Reader(stops=("END", "</"), **flags)
        for piece in pieces:
            if not reader.stopped:
                reader.feed(piece)
        reader.end()
        said, thought, calls = reader.take()
        # Ids are drawn by lot.
        found.append((said, thought, [(call.name, call.arguments) for call in calls]))
    assert found[0] == found[1]


def read_connection(data: bytes) -> None:
    """Bytes on a socket: answers, or a refusal, and nothing is left when it closes."""
    asyncio.run(_connection(data))


class Wire(asyncio.Transport):
    """A socket that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.sent = bytearray()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data


async def _connection(data: bytes) -> None:
    async def app(exchange: Exchange) -> None:
        try:
            exchange.send(await exchange.body(100_000))
        except LMaaSError as error:
            exchange.send(error.message.encode(), status=400)

    for size in (len(data) or 1, 7):
        shared, wire = Connections(app, Settings()), Wire()
        connection = shared.make()
        connection.connection_made(wire)
        for start in range(0, len(data), size):
            connection.data_received(data[start : start + size])
        for _ in range(20):
            await asyncio.sleep(0)
        assert not wire.sent or wire.sent.startswith(b"HTTP/1.1 ")
        connection.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not shared.open


def read_compressed(data: bytes) -> None:
    """A compressed body: plain bytes within the limit, or a refusal."""
    limit = 100_000

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    async def run(encoding: str) -> None:
        size = 0
        async for piece in inflate(parts(), encoding, limit):
            size += len(piece)
        assert size <= limit

    for encoding in ("gzip", "deflate"):
        with contextlib.suppress(LMaaSError):
            asyncio.run(run(encoding))


def break_events(data: bytes) -> None:
    """JSON in an event: one line, the same value."""
    text = data.decode("utf-8", "replace")
    told = unbroken(json.dumps(text, ensure_ascii=False).encode())
    assert json.loads(told) == text
    assert len(told.decode().splitlines()) <= 1


def read_websocket(data: bytes) -> None:
    """Bytes on an open WebSocket: messages within bounds, or a goodbye."""
    asyncio.run(_websocket(data))


class Peer(Wire):
    """A connection that takes everything."""

    def want_more(self) -> None:
        pass

    def hold(self) -> None:
        pass

    async def flowing(self) -> None:
        return

    def hang_up(self) -> None:
        self.close()


async def _websocket(data: bytes) -> None:
    bounds = SocketBounds(message_bytes=1000, waiting_bytes=100_000, frames_per_s=10**6)
    found = []
    for size in (len(data) or 1, 3):
        socket = WebSocket(Peer(), asyncio.get_running_loop(), bounds)
        for start in range(0, len(data), size):
            socket.received(data[start : start + size])
        socket.lost()
        messages = []
        with contextlib.suppress(SocketClosed):
            while True:
                messages.append(await socket.receive())
        assert all(len(message) <= 1000 for message in messages)
        found.append(messages)
    assert found[0] == found[1]


def read_realtime(data: bytes) -> None:
    """Messages of a live session, one a line."""
    config = SessionConfig()
    for line in data.decode("utf-8", "replace").splitlines()[:50]:
        with contextlib.suppress(BadEvent, LMaaSError):
            event = read_event(line)
            if isinstance(event, SessionUpdate):
                config = updated(config, event.session)
    assert config.type == "transcription"


def read_pieces(data: bytes) -> None:
    """A SentencePiece model, as a checkpoint may bring it."""
    path = Path(SCRATCH.name) / "spm_char.model"
    path.write_bytes(data)
    read_tokenizer(path).encode("a b")


def read_accounts(data: bytes) -> None:
    """Files of the accounts as a kill may leave them."""
    path = Path(SCRATCH.name) / "delivered"
    path.write_bytes(data)
    begun, rows = read_spools([path])
    assert not begun.keys() & rows.keys()
    read_tally(path)
    StreamProgress(path.parent).read()


TARGETS: Final[dict[str, Target]] = {
    "image": read_image,
    "sound": read_sound,
    "json": read_json,
    "pixels": read_pixels,
    "tensors": read_tensors,
    "texts": read_texts,
    "bodies": read_bodies,
    "frames": read_frames,
    "schema": write_schema,
    "pattern": write_pattern,
    "numbers": write_numbers,
    "template": render,
    "answer": take_apart,
    "connection": read_connection,
    "compressed": read_compressed,
    "events": break_events,
    "websocket": read_websocket,
    "realtime": read_realtime,
    "pieces": read_pieces,
    "accounts": read_accounts,
}
