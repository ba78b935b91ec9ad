import msgspec
import pytest

from lmaas.runtime.messages import (
    MAX_FRAME_BYTES,
    AnyMessage,
    Beat,
    Call,
    Cancel,
    Decoder,
    Done,
    Expect,
    Failed,
    Load,
    Loaded,
    ServeRecord,
    Stop,
    encode,
)
from lmaas.types import JSON, Answer, Payload, Signature, TensorSpec

RECORD = ServeRecord(
    model="m:1",
    task="tensor",
    signature=Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
    ),
    folder="/models/m",
    precision="bf16",
    reason="because",
    max_batch_size=8,
)
MESSAGES: list[AnyMessage] = [
    Expect(record=RECORD, heartbeat_s=1.0, request_timeout_s=5.0),
    Load(),
    Call(id=1, payload=Payload(media_type=JSON, body=b"{}" * 1000, parameters={"k": [1]})),
    Cancel(id=1),
    Stop(deadline_s=0.5),
    Loaded(precision="f32", reason="small", memory_bytes=1, load_s=0.1),
    Done(id=2, answer=Answer(body=b"\0\1", json_bytes=1)),
    Failed(id=None, code="invalid_input", message="bad"),
    Beat(queued=1, running=2, memory_bytes=3, batches=(1, 32)),
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 1 << 20])
def test_messages_survive_any_cut_of_the_stream(size: int) -> None:
    stream = b"".join(encode(message) for message in MESSAGES)
    decoder = Decoder()
    received = []
    for start in range(0, len(stream), size):
        received += decoder.feed(stream[start : start + size])
    assert received == MESSAGES


def test_a_frame_that_is_no_message_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        Decoder().feed((3).to_bytes(4, "little") + b"\xc1\xc1\xc1")


def test_a_frame_without_end_is_refused_at_its_head() -> None:
    with pytest.raises(msgspec.DecodeError, match="too long"):
        Decoder().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little"))


def test_a_frame_that_is_no_utf8_is_no_message() -> None:
    body = b"\x92\xa1\xff\x03"
    with pytest.raises(msgspec.DecodeError):
        Decoder().feed(len(body).to_bytes(4, "little") + body)
