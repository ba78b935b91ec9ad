"""Voices that lie beside a checkpoint: a vector for each name, in safetensors or NPY files."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.runtime.speech.engine import DEFAULT_VOICE, VOICES

FOLDER: Final = "voices"
MOST: Final = 1000
MAX_FILE_BYTES: Final = 16 << 20
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def keep(folder: Path, target: Path) -> None:
    """Write the voices of `folder`, if it has any, as one file of `target`. Raises ModelRefused.

    They are the tensors of voices.safetensors, and the files voices/NAME.safetensors or .npy.
    """
    found: dict[str, np.ndarray] = {}
    if (folder / VOICES).is_file():
        found |= _tensors(folder / VOICES)
    for path in sorted((folder / FOLDER).glob("*")):
        if path.suffix == ".npy":
            found[path.stem] = _array(path)
        elif path.suffix == ".safetensors":
            tensors = _tensors(path)
            found |= tensors if len(tensors) > 1 else dict.fromkeys([path.stem], *tensors.values())
        elif path.suffix in (".pt", ".pth", ".bin", ".pkl"):
            raise ModelRefused(
                f"{FOLDER}/{path.name} may run code when it is loaded.",
                hint="Save the vector as NPY or safetensors.",
            )
    if not found:
        return
    if len(found) > MOST:
        raise ModelRefused(f"A checkpoint has at most {MOST} voices; this one has {len(found)}.")
    vectors = {name: _vector(name, array) for name, array in found.items()}
    from safetensors.numpy import save_file

    save_file(vectors, target / VOICES)


def in_order(names: list[str]) -> tuple[str, ...]:
    """Names of voices, the default first: the one of that name, else the first by the alphabet."""
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_VOICE, name)))


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    _check_size(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, TypeError, KeyError) as error:
        raise ModelRefused(f"{path.name} cannot be read: {str(error)[:200]}.") from None


def _array(path: Path) -> np.ndarray:
    _check_size(path)
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ModelRefused(f"{path.name} cannot be read: {str(error)[:200]}.") from None
    return array


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelRefused(f"{path.name} is larger than {MAX_FILE_BYTES} bytes: no voice is.")


def _vector(name: str, array: np.ndarray) -> np.ndarray:
    if not NAME.fullmatch(name):
        raise ModelRefused(
            f"A voice cannot be called {name!a}.",
            hint="A name has letters, digits, dots, dashes and underscores.",
        )
    if array.dtype.kind != "f" or array.size != max(array.shape, default=0):
        raise ModelRefused(f"The voice {name} must be one vector of floats.")
    vector = np.ascontiguousarray(array.reshape(-1), np.float32)
    if not np.isfinite(vector).all():
        raise ModelRefused(f"The voice {name} has values that are no numbers.")
    return vector
