"""The weights of a checkpoint as numpy arrays, read from safetensors without torch.

What is stored in bfloat16 becomes float32, since numpy has no such type; nothing is lost by it.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import refuse_checkpoint

LENGTH_BYTES: Final = 8
TYPES: Final = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16,
                "I64": np.int64, "I32": np.int32}  # fmt: skip


class Stored(Mapping[str, np.ndarray]):
    """Arrays by name, read when they are asked for; the file's memory is mapped."""

    def __init__(self, folder: Path) -> None:
        self._found: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in refuse_checkpoint.weight_files(folder):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(LENGTH_BYTES))
            for name, entry in refuse_checkpoint.header(path).items():
                self._found[name] = (path, LENGTH_BYTES + length, entry)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        """The array; float32 or float16 where it holds numbers with a point."""
        path, start, entry = self._found[name]
        self.asked.add(name)
        kind, shape = str(entry["dtype"]), tuple(entry["shape"])
        if kind not in TYPES:
            raise ModelRefused(f"The tensor {name!a} has the type {kind}, which is not read here.")
        dtype: np.dtype[Any] = np.dtype(TYPES[kind])
        first, end = entry["data_offsets"]
        count = (end - first) // dtype.itemsize
        flat: np.ndarray = np.empty(0, dtype)
        if count:
            flat = np.memmap(str(path), dtype, "r", start + first, (count,))
        if kind == "BF16":
            return (flat.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if kind == "F64":
            flat = flat.astype(np.float32)
        return np.asarray(flat).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._found)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found)
