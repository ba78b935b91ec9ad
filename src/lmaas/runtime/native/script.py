"""TorchScript files: what may be in them, and loading one.

Its code is run by PyTorch's own interpreter, not by Python, and its data are read by a reader that
makes tensors and containers only. What is left to refuse are operations that touch files.
"""

import re
import zipfile
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused

SCRIPT: Final = "script.pt"
MAX_CODE_BYTES: Final = 256 << 20
MAX_MEMBERS: Final = 100_000
FORBIDDEN: Final = re.compile(rb"\b(?:from_file|torch\.save|torch\.load|aten\.save)\b")
NAMESPACES: Final = re.compile(rb"\bops\.(\w+)\.")
ALLOWED: Final = {b"aten", b"prim", b"prims", b"quantized", b"quantized_decomposed", b"torchvision"}


def is_script(path: Path) -> bool:
    """Whether the file is TorchScript: an archive with code beside its data."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any("/code/" in name and name.endswith(".py") for name in names) and any(
        name.endswith("constants.pkl") for name in names
    )


def check(path: Path) -> None:
    """Raise ModelRefused for a file whose code names what may not be run. Loads nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            code = [m for m in members if "/code/" in m.filename and m.filename.endswith(".py")]
            size = sum(member.file_size for member in code)
            if len(members) > MAX_MEMBERS or size > MAX_CODE_BYTES:
                raise ModelRefused(f"{path.name} has more code than is accepted.")
            for member in code:
                _check_code(path, archive.read(member))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ModelRefused(f"{path.name} is not a TorchScript archive: {error}.") from None


def _check_code(path: Path, code: bytes) -> None:
    found = FORBIDDEN.search(code)
    if found is not None:
        raise ModelRefused(f"{path.name} has the operation {found.group().decode()}.")
    for namespace in set(NAMESPACES.findall(code)) - ALLOWED:
        raise ModelRefused(
            f"{path.name} has operations of {namespace.decode()!a}, which are not PyTorch's own."
        )


def load(path: Path) -> Any:
    """The module in the file, on the CPU, in inference mode. Raises ModelRefused."""
    import torch

    check(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelRefused(f"{path.name} cannot be loaded: {told}") from None
