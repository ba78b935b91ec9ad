"""What a checkpoint folder must not contain. Looks at bytes only: nothing here loads a model."""

import json
from pathlib import Path
from typing import Any

from lmaas.errors import ModelRefused


def check(folder: Path) -> None:
    """Raise ModelRefused for a checkpoint that holds code or contradicts itself."""
    if not any(folder.glob("*.safetensors")):
        raise ModelRefused(f"{folder.name}/ holds no .safetensors file.")


def stored_types(folder: Path) -> dict[str, int]:
    """Bytes of weights by safetensors dtype ("F32", "BF16", …)."""
    types: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        for entry in header(path).values():
            start, end = entry["data_offsets"]
            types[entry["dtype"]] = types.get(entry["dtype"], 0) + end - start
    return types


def header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, as its header describes them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        told: dict[str, Any] = json.loads(file.read(length))
    told.pop("__metadata__", None)
    return told
