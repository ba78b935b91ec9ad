"""`.keras` files: what must not be in one. Looks at bytes only: nothing here loads a model."""

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused

MODEL: Final = "model.keras"
CONVERT: Final = (
    "Load it where you trust it and publish the live model: lmaas.publish(model, name=…, task=…, "
    "sample=…). Weights alone are shared as safetensors."
)
MAX_MEMBERS: Final = 10_000
MAX_UNPACKED_BYTES: Final = 64 << 30
UNSAFE_KERAS: Final = {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}


def check(path: Path) -> None:
    """Refuse a `.keras` with code, custom objects or an archive that lies."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_UNPACKED_BYTES:
                raise ModelRefused(f"{path.name} unpacks to more than is accepted.")
            for member in members:
                parts = Path(member.filename).parts
                if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
                    raise ModelRefused(f"{path.name} has a member outside its folder.")
            config = json.loads(archive.read("config.json"))
            weights = [m.filename for m in members if m.filename.endswith(".h5")]
            for name in weights:
                with archive.open(name) as file:
                    _check_hdf5(path, file)
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError) as error:
        raise ModelRefused(f"{path.name} is not a .keras archive: {error}.") from None
    _check_config(path, config)


def _check_config(path: Path, value: Any) -> None:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
            name, module = value.get("class_name"), value.get("module")
            if name in UNSAFE_KERAS or name == "__lambda__":
                raise ModelRefused(
                    f"{path.name} has a {name} layer, which holds code.", hint=CONVERT
                )
            custom = isinstance(module, str) and not (
                module in ("keras", "builtins") or module.startswith("keras.")
            )
            if isinstance(name, str) and custom:
                raise ModelRefused(
                    f"{path.name} needs the custom object {module}.{name}.", hint=CONVERT
                )


def _check_hdf5(path: Path, file: Any) -> None:
    import h5py

    claimed = 0

    def visit(name: str, item: Any) -> None:
        nonlocal claimed
        if isinstance(item, h5py.Dataset):
            claimed += item.size * item.dtype.itemsize
            if item.external or item.is_virtual or item.dtype.hasobject:
                raise ModelRefused(f"{path.name}: {name} refers to data outside the file.")
            if claimed > MAX_UNPACKED_BYTES:
                raise ModelRefused(f"{path.name} claims more data than is accepted.")

    with h5py.File(file, "r") as root:
        _check_links(path, root)
        root.visititems(visit)


def _check_links(path: Path, group: Any) -> None:
    import h5py

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise ModelRefused(f"{path.name}: {name} links to another place.")
        if isinstance(group.get(name), h5py.Group):
            _check_links(path, group[name])
