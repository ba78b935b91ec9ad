"""Open Inference Protocol v2 bodies: named tensors, as JSON or as binary after the JSON.

Source: KServe Open Inference Protocol, "Predict Protocol - Version 2", with its binary tensor
data extension. Shared memory and the classification extension are refused by name.
"""

import math
from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np

from lmaas.codecs import json, strings
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.types import Answer, Payload, Signature, TensorSpec

DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": strings.DTYPE,
}  # fmt: skip
"""numpy's dtype name for each datatype of the protocol that is served."""
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


class RequestInput(msgspec.Struct, forbid_unknown_fields=True):
    """One input tensor of an infer request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


class RequestOutput(msgspec.Struct, forbid_unknown_fields=True):
    """One output that an infer request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON part of an infer request."""

    inputs: list[RequestInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestOutput] | None = None


class Wanted(msgspec.Struct):
    """How the caller wants the answer: which outputs, each as binary or JSON; the request id."""

    id: str
    outputs: dict[str, bool]


def read(
    payload: Payload, signature: Signature, limits: Limits
) -> tuple[dict[str, np.ndarray], Wanted]:
    """Input arrays by name (batch axis included), and what the caller wants back.

    Raises InvalidInput with what was expected and received.
    """
    head, binary = _split(payload)
    request = json.read(head, InferRequest)
    _refuse_parameters(request.parameters, {"binary_data_output"}, "parameters")
    arrays: dict[str, np.ndarray] = {}
    specs = {spec.name: spec for spec in signature.inputs}
    offset = 0
    for given in request.inputs:
        spec = specs.get(given.name)
        if spec is None or given.name in arrays:
            problem = "is given twice" if spec else "is not an input of this model"
            raise InvalidInput(
                f"Input {given.name!r} {problem}; expected {sorted(specs)}.", param=given.name
            )
        array, used = _read_input(given, spec, binary[offset:], limits)
        offset += used
        arrays[given.name] = array
    if offset != len(binary):
        raise InvalidInput(f"The binary part has {len(binary)} bytes; the inputs declare {offset}.")
    missing = sorted(set(specs) - set(arrays))
    if missing:
        raise InvalidInput(f"Inputs {missing} are missing; expected {sorted(specs)}.")
    check_arrays(arrays, signature)
    return arrays, _wanted(request, signature)


def _split(payload: Payload) -> tuple[bytes, memoryview]:
    if payload.json_bytes is None:
        return payload.body, memoryview(b"")
    if not 0 < payload.json_bytes <= len(payload.body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {payload.json_bytes}; the body has "
            f"{len(payload.body)} bytes."
        )
    return payload.body[: payload.json_bytes], memoryview(payload.body)[payload.json_bytes :]


def _read_input(
    given: RequestInput, spec: TensorSpec, binary: memoryview, limits: Limits
) -> tuple[np.ndarray, int]:
    _refuse_parameters(given.parameters, {"binary_data_size"}, f"input {given.name!r}")
    dtype = DTYPES.get(given.datatype)
    if dtype != spec.dtype:
        raise InvalidInput(
            f"Input {spec.name!r} has datatype {DATATYPES.get(spec.dtype, spec.dtype)}; received "
            f"{given.datatype}.",
            param=spec.name,
        )
    elements = math.prod(given.shape) if all(size >= 0 for size in given.shape) else -1
    if elements < 0:
        raise InvalidInput(f"Input {spec.name!r} has a negative size in its shape.")
    if elements > limits.max_elements:
        raise PayloadTooLarge(
            f"Input {spec.name!r} has {elements} elements; at most {limits.max_elements}."
        )
    check_shape(tuple(given.shape), spec)
    size = (given.parameters or {}).get("binary_data_size")
    if size is None:
        array = read_json(given.data, spec, limits)
        if array.size != elements:
            raise InvalidInput(
                f"Input {spec.name!r} has {array.size} values; its shape {given.shape} needs "
                f"{elements}.",
                param=spec.name,
            )
        return array.reshape(given.shape), 0
    if spec.dtype == strings.DTYPE:
        return _read_texts(given, size, spec, binary, elements)
    expected = elements * np.dtype(spec.dtype).itemsize
    if given.data is not None or size != expected or len(binary) < expected:
        raise InvalidInput(
            f"Input {spec.name!r} of shape {given.shape} needs {expected} binary bytes and no "
            f"`data`; received binary_data_size {size!r} and {len(binary)} bytes.",
            param=spec.name,
        )
    array = np.frombuffer(binary[:expected], spec.dtype).reshape(given.shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"Input {spec.name!r} holds NaN or infinity.", param=spec.name)
    return array, expected


def _read_texts(
    given: RequestInput, size: Any, spec: TensorSpec, binary: memoryview, elements: int
) -> tuple[np.ndarray, int]:
    if given.data is not None or type(size) is not int or not 0 <= size <= len(binary):
        raise InvalidInput(
            f"Input {spec.name!r} needs binary_data_size and no `data`; received {size!r}, and "
            f"{len(binary)} bytes.",
            param=spec.name,
        )
    array = strings.unpack(binary[:size], name=spec.name)
    if array.size != elements:
        raise InvalidInput(
            f"Input {spec.name!r} has {array.size} texts; its shape {given.shape} needs "
            f"{elements}.",
            param=spec.name,
        )
    return array.reshape(given.shape), size


def read_json(value: Any, spec: TensorSpec, limits: Limits) -> np.ndarray:
    """Nested lists of numbers, or of texts, as `spec` says. Raises InvalidInput."""
    if spec.dtype == strings.DTYPE:
        array = strings.from_objects(value, name=spec.name)
        if array.size > limits.max_elements:
            raise PayloadTooLarge(f"{spec.name} has {array.size} texts.", param=spec.name)
        return array
    return json.to_array(value, spec.dtype, limits, name=spec.name)


def check_arrays(arrays: dict[str, np.ndarray], signature: Signature) -> None:
    """Raise InvalidInput for shapes, whole numbers and free axes that the model does not take."""
    sizes: dict[str, tuple[str, int]] = {}
    empty = {axis for axis, (least, _) in signature.axes.items() if least == 0}
    for spec in signature.inputs:
        array = arrays[spec.name]
        check_shape(array.shape, spec, empty)
        _check_whole(array, spec)
        for axis, size in zip(spec.axes, array.shape, strict=False):
            if axis:
                _check_axis(axis, size, spec.name, sizes, signature)


def _check_whole(array: np.ndarray, spec: TensorSpec) -> None:
    if (spec.minimum is None and spec.maximum is None) or not array.size:
        return
    least, most = int(array.min()), int(array.max())
    low, high = spec.minimum, spec.maximum
    if (low is not None and least < low) or (high is not None and most > high):
        raise InvalidInput(
            f"Input {spec.name!r} takes whole numbers from {'any' if low is None else low} to "
            f"{'any' if high is None else high}; received {least} to {most}.",
            param=spec.name,
        )


def _check_axis(
    axis: str, size: int, name: str, sizes: dict[str, tuple[str, int]], signature: Signature
) -> None:
    other, known = sizes.setdefault(axis, (name, size))
    if known != size:
        raise InvalidInput(
            f"The axis {axis!r} must have one size; {other!r} has {known} and {name!r} {size}.",
            param=name,
        )
    least, most = signature.axes.get(axis, (1, None))
    if size < least or (most is not None and size > most):
        raise InvalidInput(
            f"The axis {axis!r} of {name!r} takes sizes from {least} to "
            f"{'any' if most is None else most}; received {size}.",
            param=name,
        )


def check_shape(
    shape: tuple[int, ...], spec: TensorSpec, empty: Collection[str] = frozenset()
) -> None:
    """Raise InvalidInput unless `shape` fits `spec` (-1 in it: any size, at least 1, or 0 where the
    axis is one of `empty`).
    """
    axes = (*spec.axes, *("",) * len(spec.shape))[: len(spec.shape)]
    fits = len(shape) == len(spec.shape) and all(
        size == want or (want < 0 and (size > 0 or axis in empty))
        for size, want, axis in zip(shape, spec.shape, axes, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"Input {spec.name!r} must have the shape {_show(spec.shape)}; received "
            f"{_show(shape)}.",
                hint="-1 stands for any size; other axes become free with publish(dynamic=…)."
            if -1 in spec.shape else "Axes become free with publish(dynamic=…).",
            param=spec.name,
        )  # fmt: skip


def _show(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _wanted(request: InferRequest, signature: Signature) -> Wanted:
    names = [spec.name for spec in signature.outputs]
    default = (request.parameters or {}).get("binary_data_output", False)
    if not isinstance(default, bool):
        raise InvalidInput("binary_data_output must be true or false.", param="binary_data_output")
    if request.outputs is None:
        return Wanted(request.id or "", dict.fromkeys(names, default))
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in names:
            raise InvalidInput(
                f"{output.name!r} is not an output of this model; expected {names}.",
                param=output.name,
            )
        known = {"binary_data", "classification"}
        _refuse_parameters(output.parameters, known, f"output {output.name!r}")
        parameters = output.parameters or {}
        if parameters.get("classification", 0) != 0:
            raise InvalidInput(
                "The classification extension is not served.",
                hint="Ask POST /models/{name} for labels with scores.",
                param="classification",
            )
        wanted[output.name] = parameters.get("binary_data", default)
    return Wanted(request.id or "", wanted)


def _refuse_parameters(given: dict[str, Any] | None, known: set[str], where: str) -> None:
    for name in given or ():
        if name not in known:
            raise InvalidInput(
                f"Parameter {name!r} of {where} is not supported; supported: {sorted(known)}.",
                param=name,
            )


def write(
    outputs: dict[str, np.ndarray], wanted: Wanted, signature: Signature, model: str
) -> Answer:
    """The response body for `outputs` (by name, batch axis included)."""
    name, _, version = model.partition(":")
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output, binary in wanted.outputs.items():
        array = outputs[output]
        entry: dict[str, Any] = {
            "name": output,
            "datatype": DATATYPES[strings.dtype_name(array)],
            "shape": list(array.shape),
        }
        if binary:
            raw = to_bytes(array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = to_lists(array.reshape(-1), output)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if wanted.id:
        answer["id"] = wanted.id
    head = msgspec.json.encode(answer)
    return Answer(body=b"".join([head, *parts]), json_bytes=len(head) if parts else None)


def to_bytes(array: np.ndarray) -> bytes:
    """The binary form of a tensor, row by row."""
    whole = strings.pack(array) if strings.is_text(array) else np.ascontiguousarray(array)
    return whole.tobytes()


def to_lists(array: np.ndarray, name: str) -> Any:
    """Nested lists for JSON. JSON has no NaN, so such outputs are an error, never a null."""
    if strings.is_text(array):
        return strings.to_lists(array, name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise LMaaSError(
            f"Output {name!r} holds NaN or infinity, which JSON cannot express.",
            hint="Ask for binary tensors (Open Inference Protocol), or repair the model.",
        )
    return array.tolist()
