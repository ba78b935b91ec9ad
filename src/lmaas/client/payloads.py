"""What `predict` sends for a value, and what it makes of the answer."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from lmaas.codecs import strings
from lmaas.codecs.tensor import DATATYPES, DTYPES, to_bytes
from lmaas.errors import InvalidInput
from lmaas.tasks.labels import Classified, Detection, Label
from lmaas.types import (
    JSON,
    TENSORS,
    Answer,
    Payload,
)


def to_payload(given: Any, parameters: Mapping[str, Any]) -> Payload:
    """What `Client.predict` sends for `given`. Raises InvalidInput."""
    if isinstance(given, Mapping) and all(
        value is None or isinstance(value, str | int | float) for value in given.values()
    ):
        # A row of named values: a tensor has at least the batch axis.
        row = {"inputs": given, "parameters": parameters}
        return Payload(media_type=JSON, body=msgspec.json.encode(row))
    if isinstance(given, Mapping):
        if parameters:
            raise InvalidInput(f"Tensors take no parameters; received {sorted(parameters)}.")
        head, body = _write_tensors(given)
        return Payload(media_type=TENSORS, body=body, json_bytes=head)
    if isinstance(given, str | os.PathLike):
        given = Path(given).read_bytes()
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        given = Image.fromarray(given)
    if isinstance(given, Image.Image):
        file = io.BytesIO()
        given.save(file, "PNG")
        given = file.getvalue()
    if isinstance(given, bytes) and not parameters:
        return Payload(body=given)
    if isinstance(given, bytes):
        given = base64.b64encode(given).decode()
    value = given if isinstance(given, str | list) else np.asarray(given).tolist()
    call = {"inputs": value, "parameters": parameters}
    return Payload(media_type=JSON, body=msgspec.json.encode(call))


def read_answer(answer: Answer) -> Any:
    """What `Client.predict` gives: labels, values, nested lists by output name, arrays by it, or
    for other tasks the JSON as it is.
    """
    if answer.json_bytes is not None:
        return _read_tensors(answer.body, answer.json_bytes)
    result = msgspec.json.decode(answer.body)
    if isinstance(result, dict):
        return result.get("value", result.get("outputs", result))
    several = bool(result) and all(isinstance(each, list) for each in result) and any(result)
    first = next(each for each in result if each)[0] if several else next(iter(result), None)
    for kind in (Classified, Detection, Label):
        if isinstance(first, dict) and _is(first, kind):
            return msgspec.convert(result, list[list[kind]] if several else list[kind])  # type: ignore[valid-type]
    if isinstance(first, dict) and "value" in first:
        return [each["value"] for each in result]
    return result


def _is(given: Mapping[str, Any], kind: type[msgspec.Struct]) -> bool:
    """Whether an object has all fields of a record that must be there, and no others than its."""
    fields = msgspec.structs.fields(kind)
    required = {field.name for field in fields if field.required}
    return required <= set(given) <= {field.name for field in fields}


def _write_tensors(arrays: Mapping[str, Any]) -> tuple[int, bytes]:
    described, parts = [], []
    for name, value in arrays.items():
        array = np.asarray(value)
        if strings.is_text(array):
            array = strings.from_objects(array, name=name)
        datatype = DATATYPES.get(strings.dtype_name(array))
        if datatype is None:
            raise InvalidInput(f"Input {name!r} has dtype {array.dtype}, which is not served.")
        raw = to_bytes(array)
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        parts.append(raw)
    body = {"inputs": described, "parameters": {"binary_data_output": True}}
    head = msgspec.json.encode(body)
    return len(head), b"".join([head, *parts])


def _read_tensors(body: bytes, json_bytes: int) -> dict[str, np.ndarray]:
    told = msgspec.json.decode(body[:json_bytes])
    arrays, start = {}, json_bytes
    for output in told["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        raw, dtype = body[start:end], DTYPES[output["datatype"]]
        flat = (
            strings.unpack(raw, name=output["name"])
            if dtype == strings.DTYPE
            else np.frombuffer(raw, dtype)
        )
        arrays[output["name"]] = flat.reshape(output["shape"])
        start = end
    return arrays
