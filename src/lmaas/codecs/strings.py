"""Tensors of texts: numpy arrays of `bytes` objects, of any content.

On the wire each element is a 4-byte little-endian length and so many bytes, row by row (the
datatype BYTES of the Open Inference Protocol's binary extension).
"""

import base64
import binascii
import struct
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput, LMaaSError

DTYPE = "string"
"""The name of this type of tensor in a signature; numpy has none for it."""


def is_text(array: np.ndarray) -> bool:
    """Whether numpy holds texts in it: fixed-width ones, or objects."""
    return array.dtype.kind in "OSUT"


def dtype_name(array: np.ndarray) -> str:
    """The name of an array's type in a signature."""
    return DTYPE if is_text(array) else array.dtype.name


def from_objects(value: Any, *, name: str) -> np.ndarray:
    """An array of `bytes` from one of texts or bytes. Raises InvalidInput for anything else."""
    array = np.asarray(value, object)
    out = np.empty(array.shape, object)
    flat = out.reshape(-1)
    for index, element in enumerate(array.reshape(-1)):
        if isinstance(element, np.ndarray | list):
            raise InvalidInput(f"{name} is not a regular array: its lists differ in length.")
        flat[index] = _bytes_of(element, name)
    return out


def _bytes_of(element: Any, name: str) -> bytes:
    if isinstance(element, str):
        return element.encode("utf-8", "surrogatepass")
    if isinstance(element, bytes):
        return bytes(element)
    if isinstance(element, dict) and list(element) == ["b64"] and isinstance(element["b64"], str):
        try:
            return base64.b64decode(element["b64"], validate=True)
        except binascii.Error as error:
            raise InvalidInput(f"{name} holds base64 that is not valid: {error}.") from None
    raise InvalidInput(
        f'{name} must hold texts, or bytes as {{"b64": "…"}}; received a {type(element).__name__}.',
        param=name,
    )


def to_lists(array: np.ndarray, name: str) -> Any:
    """Nested lists of texts for JSON. Raises LMaaSError for bytes that are no text."""
    try:
        texts = np.empty(array.shape, object)
        for index, element in enumerate(array.reshape(-1)):
            texts.reshape(-1)[index] = element.decode()
    except UnicodeDecodeError:
        raise LMaaSError(
            f"Output {name!r} holds bytes that are no UTF-8 text, which JSON cannot express.",
            hint="Ask for binary tensors (Open Inference Protocol).",
        ) from None
    return texts.tolist()


def pack(array: np.ndarray) -> np.ndarray:
    """The wire form, as a flat uint8 array."""
    parts = [struct.pack("<I", len(element)) + element for element in array.reshape(-1)]
    return np.frombuffer(b"".join(parts), np.uint8)


def unpack(raw: bytes | memoryview, *, name: str) -> np.ndarray:
    """A flat array of `bytes` from the wire form. Raises InvalidInput for one that is cut off."""
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        if at + 4 > end or at + 4 + (size := int.from_bytes(raw[at : at + 4], "little")) > end:
            raise InvalidInput(f"{name} is cut off: BYTES are a length of 4 bytes, then so many.")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    array = np.empty(len(found), object)
    array[:] = found
    return array
