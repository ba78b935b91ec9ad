"""Tensors of gRPC as the worker reads them, and its answer as gRPC's: nothing is decoded here.

A request becomes the protocol's JSON with binary tensors behind it, which is what a worker takes
from HTTP; so shapes, types and bounds are checked in one place for both.
"""

import struct
import sys
from array import array
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.http import grpc_messages
from lmaas.types import TENSORS, Answer, Payload

CONTENTS: Final = {
    "BOOL": ("bool_contents", "b"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
"""Where the numbers of a datatype stand, and how they are packed."""


class Described(msgspec.Struct):
    """An output in the head of a worker's answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class Head(msgspec.Struct):
    """The head of a worker's answer."""

    model_name: str
    model_version: str
    outputs: list[Described]
    id: str = ""


def payload_of(request: Any) -> Payload:
    """A `ModelInferRequest` as a worker reads it. Raises InvalidInput."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs: either all have them "
            "or none.",
            param="raw_input_contents",
        )
    inputs = []
    for number, given in enumerate(request.inputs):
        if raw and given.HasField("contents"):
            raise InvalidInput(
                f"Input {given.name!r} has contents, and raw_input_contents too.",
                param=given.name,
            )
        if not raw or len(raw) <= number:
            raw.append(_packed(given))
        inputs.append(
            {
                "name": given.name,
                "datatype": given.datatype,
                "shape": list(given.shape),
                "parameters": _parameters(given) | {"binary_data_size": len(raw[number])},
            }
        )
    head: dict[str, Any] = {
        "id": request.id,
        "inputs": inputs,
        "parameters": _parameters(request) | {"binary_data_output": True},
    }
    if request.outputs:
        head["outputs"] = [
            {"name": output.name, "parameters": _parameters(output)} for output in request.outputs
        ]
    encoded = msgspec.json.encode(head)
    return Payload(media_type=TENSORS, body=b"".join([encoded, *raw]), json_bytes=len(encoded))


def response_of(answer: Answer) -> Any:
    """A worker's answer as a `ModelInferResponse`."""
    size = len(answer.body) if answer.json_bytes is None else answer.json_bytes
    head = msgspec.json.decode(answer.body[:size], type=Head)
    response = grpc_messages.of("ModelInferResponse")(
        model_name=head.model_name, model_version=head.model_version, id=head.id
    )
    at = size
    for output in head.outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        end = at + output.parameters["binary_data_size"]
        response.raw_output_contents.append(answer.body[at:end])
        at = end
    return response


def _parameters(message: Any) -> dict[str, Any]:
    told = {}
    for name, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        told[name] = None if kind is None else getattr(value, kind)
    return told


def _packed(given: Any) -> bytes:
    """An input's typed contents as little-endian bytes. Raises InvalidInput."""
    contents = given.contents
    if given.datatype == "BYTES":
        parts: list[bytes] = []
        for text in contents.bytes_contents:
            parts += (struct.pack("<I", len(text)), text)
        return b"".join(parts)
    if given.datatype not in CONTENTS:
        raise InvalidInput(
            f"Input {given.name!r} of the datatype {given.datatype[:50]!r} has no contents of its "
            "own.",
            hint="Send it in raw_input_contents.",
            param=given.name,
        )
    field, code = CONTENTS[given.datatype]
    try:
        packed = array(code, getattr(contents, field))
    except OverflowError:
        raise InvalidInput(
            f"Input {given.name!r} has numbers that do not fit {given.datatype}.", param=given.name
        ) from None
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
