"""JSON bodies and nested JSON numbers as arrays: no NaN, no unknown fields, no ragged lists."""

import struct
from typing import Any, TypeVar

import msgspec
import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge

T = TypeVar("T")


class CallBody(msgspec.Struct, forbid_unknown_fields=True):
    """The Hugging Face Inference request: `inputs` and optional `parameters`."""

    inputs: Any
    parameters: dict[str, Any] | None = None


_call_decoder = msgspec.json.Decoder(CallBody)


def read_call(body: bytes) -> CallBody:
    """Decode `{"inputs": …, "parameters": …}`. Raises InvalidInput for anything else."""
    try:
        return _call_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(error) from None


def read(body: bytes, kind: type[T]) -> T:
    """Decode a JSON body as `kind`. Raises InvalidInput naming the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(error) from None


def _invalid(error: Exception) -> InvalidInput:
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"The JSON body does not have the expected fields: {error}.")
    if isinstance(error, RecursionError):
        return InvalidInput("The JSON body is nested too deeply.")
    return InvalidInput(f"The body is not valid JSON: {error}.")


def to_array(value: Any, dtype: str, limits: Limits, *, name: str) -> np.ndarray:
    """Nested lists of numbers as an array of `dtype`; `name` is the field for error texts.

    Raises InvalidInput for ragged lists, texts, nulls, fractions or overflow in integer
    tensors, and values that `dtype` cannot hold.
    """
    try:
        array = _vector(value) if isinstance(value, list) else None
        if array is None:
            array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{name} is not a regular array of numbers: its lists differ in length or depth.",
            param=name,
        ) from None
    return cast(array, dtype, limits, name=name)


def _vector(values: list[Any]) -> np.ndarray | None:
    """A flat list of floats as an array: three times as fast as numpy's own conversion."""
    if not values or type(values[0]) is not float:
        return None
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error:
        return None


def cast(array: np.ndarray, dtype: str, limits: Limits, *, name: str) -> np.ndarray:
    """`array` as `dtype`, only if every value survives; floats must be finite."""
    if array.size > limits.max_elements:
        raise PayloadTooLarge(
            f"{name} has {array.size} elements; at most {limits.max_elements} are accepted.",
            param=name,
        )
    target = np.dtype(dtype)
    kind = array.dtype.kind
    if kind not in "biuf" or (kind == "b") != (target.kind == "b"):
        received = {"O": "mixed values", "U": "text", "S": "text", "b": "booleans"}
        raise InvalidInput(
            f"{name} must hold {dtype} numbers; received {received.get(kind, str(array.dtype))}.",
            param=name,
        )
    if target.kind == "f":
        with np.errstate(over="ignore"):
            out = array.astype(target, copy=False)
        if not np.isfinite(out).all():
            if np.isfinite(array).all():
                raise InvalidInput(f"{name} holds numbers too large for {dtype}.", param=name)
            raise InvalidInput(f"{name} holds NaN or infinity.", param=name)
        return out
    if kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"{name} holds NaN or infinity.", param=name)
    if array.dtype == target:
        return array
    with np.errstate(invalid="ignore"):
        out = array.astype(target)
    if not np.array_equal(out, array):
        raise InvalidInput(
            f"{name} must hold whole numbers that fit {dtype}; received others.", param=name
        )
    return out
