"""The messages between the server and a worker, and how they travel over their socket.

A frame is a 4-byte little-endian length and one msgpack message of that length. This module knows
no sockets: it turns messages into bytes and bytes into messages.
"""

import logging
from typing import Final

import msgspec

from lmaas.codecs.limits import Limits
from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Ended
from lmaas.runtime.engine import ENGINES
from lmaas.runtime.engine_spec import EngineSpec
from lmaas.runtime.language.engine import EngineOptions
from lmaas.types import Answer, Payload, Precision, Record, Signature

LENGTH_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 1 << 30
"""The largest message: a worker that was taken over must not fill the server's memory."""


class ServedPart(Record, frozen=True, kw_only=True):
    """A part of a pipeline, as `ServeRecord` tells of a model."""

    role: str
    model: str
    task: str
    signature: Signature
    folder: str
    precision: Precision
    engine: EngineSpec


class ServeRecord(Record, frozen=True, kw_only=True):
    """All that a worker is told of the model it holds.

    `model` is "name:version"; `folder` contains the files that `engine` needs; `reason` says why
    this `precision` was chosen; `threads` 0 means all cores. `options` are those of an engine that
    writes tokens, `variant` the compressed variant that is served, if it is one; `parts` are those
    of a pipeline, whose folders lie in `folder`.
    """

    model: str
    task: str
    signature: Signature
    folder: str
    precision: Precision
    reason: str
    max_batch_size: int
    threads: int = 0
    limits: Limits = Limits()
    engine: EngineSpec = ENGINES["openvino"]
    options: EngineOptions | None = None
    variant: str | None = None
    parts: tuple[ServedPart, ...] = ()


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of all messages: immutable, keyword-only, tagged by class name."""


class Expect(Message, frozen=True, kw_only=True):
    """Server to worker, first and once: this model will be loaded, so import what that takes.

    Once it is loaded the worker sends a `Beat` every `heartbeat_s`, and ends itself when one engine
    call takes longer than `request_timeout_s`.
    """

    record: ServeRecord
    heartbeat_s: float
    request_timeout_s: float


class Load(Message, frozen=True, kw_only=True):
    """Server to worker, once: the files of the expected model are there and checked. Load it."""


class Call(Message, frozen=True, kw_only=True):
    """Server to worker: answer this request. `id` is unique within the worker's life."""

    id: int
    payload: Payload


class Cancel(Message, frozen=True, kw_only=True):
    """Server to worker: nobody waits for request `id` any more."""

    id: int


class Stop(Message, frozen=True, kw_only=True):
    """Server to worker: answer what is there, for at most `deadline_s` seconds, then exit."""

    deadline_s: float


class Loaded(Message, frozen=True, kw_only=True):
    """Worker to server: the model is ready. `memory_bytes` is the worker's resident set."""

    precision: Precision
    reason: str
    memory_bytes: int
    load_s: float


class Done(Message, frozen=True, kw_only=True):
    """Worker to server: the answer to request `id`."""

    id: int
    answer: Answer


class Began(Message, frozen=True, kw_only=True):
    """Worker to server: request `id`, of `prompt` tokens, has its first token."""

    id: int
    prompt: int


class Parts(Message, frozen=True, kw_only=True):
    """Worker to server: what streamed requests gained in one step of the model."""

    items: tuple[tuple[int, Delta], ...]


class Sound(Message, frozen=True, kw_only=True):
    """Worker to server: of request `id`, so many more characters are spoken; `body` goes on its
    file of sound, and may be empty."""

    id: int
    chars: int
    body: bytes = b""


class Finished(Message, frozen=True, kw_only=True):
    """Worker to server: generation `id` is complete, or cancelled with what it used so far."""

    id: int
    ended: Ended


class Failed(Message, frozen=True, kw_only=True):
    """Worker to server: request `id`, or the load when `id` is None, ended in an error.

    `code` is a key of `lmaas.errors.BY_CODE`.
    """

    id: int | None
    code: str
    message: str
    hint: str | None = None
    param: str | None = None


class Beat(Message, frozen=True, kw_only=True):
    """Worker to server: a sign of life. `batches` are the batch sizes run since the last one.

    `cache_used` is the share of a language engine's KV cache that is in use.
    """

    queued: int
    running: int
    memory_bytes: int
    batches: tuple[int, ...] = ()
    cache_used: float = 0.0


AnyMessage = (
    Expect
    | Load
    | Call
    | Cancel
    | Stop
    | Loaded
    | Done
    | Began
    | Parts
    | Sound
    | Finished
    | Failed
    | Beat
)

log = logging.getLogger(__name__)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """The message as one frame."""
    frame = bytearray(LENGTH_BYTES)
    _encoder.encode_into(message, frame, LENGTH_BYTES)
    length = len(frame) - LENGTH_BYTES
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"A message of {length} bytes does not fit a frame.")
    frame[:LENGTH_BYTES] = length.to_bytes(LENGTH_BYTES, "little")
    return bytes(frame)


def failed(id_: int | None, error: BaseException) -> Failed:
    """What tells that request `id_` failed with `error`, or the load when it is None."""
    if isinstance(error, LMaaSError):
        return Failed(
            id=id_, code=error.code, message=error.message, hint=error.hint, param=error.param
        )
    log.error("A request failed unexpectedly.", exc_info=error)
    message = f"The model could not answer: {type(error).__name__}: {error}."
    return Failed(id=id_, code=LMaaSError.code, message=message)


def failure(id_: int | None, error: BaseException) -> bytes:
    """The frame that tells it."""
    return encode(failed(id_, error))


class Decoder:
    """Collects bytes as they arrive and gives back the messages that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[AnyMessage]:
        """The messages that `data` completes, in order.

        Raises msgspec.DecodeError for a frame that is no message.
        """
        if self._buffer:
            self._buffer += data
            data = self._buffer
        messages, used = _split(data)
        if data is self._buffer:
            del self._buffer[:used]
        elif used < len(data):
            self._buffer += data[used:]
        return messages


def _split(data: bytes | bytearray | memoryview) -> tuple[list[AnyMessage], int]:
    messages: list[AnyMessage] = []
    start, size = 0, len(data)
    with memoryview(data) as view:
        while size - start >= LENGTH_BYTES:
            length = int.from_bytes(view[start : start + 4], "little")
            if length > MAX_FRAME_BYTES:
                raise msgspec.DecodeError(f"A message of {length} bytes is too long.")
            end = start + LENGTH_BYTES + length
            if end > size:
                break
            try:
                messages.append(_decoder.decode(view[start + LENGTH_BYTES : end]))
            except UnicodeDecodeError as error:
                raise msgspec.DecodeError(str(error)) from None
            start = end
    return messages, start
