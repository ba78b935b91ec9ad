"""What a model file must not contain. Looks at bytes only: nothing here loads a model.

Pickles run code when they are loaded; a `.keras` can name Python functions; a SavedModel can read
files; ONNX can point outside its folder. Each is refused with the way to convert.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from lmaas.errors import ModelRefused
from lmaas.types import FrameworkName

PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".ckpt", ".sav", ".npy"}
CONVERT = (
    "Load it where you trust it and publish the live model: lmaas.publish(model, name=…, task=…, "
    "sample=…). Weights alone are shared as safetensors."
)
MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 64 << 30
UNSAFE_KERAS = {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
UNSAFE_OPS = {
    "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc",
    "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2",
    "TFRecordReader", "TFRecordReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2",
    "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset",
    "FixedLengthRecordDatasetV2", "CSVDataset", "CSVDatasetV2", "SqlDataset", "LoadDataset",
    "SaveDataset", "SaveDatasetV2", "DatasetFromGraph", "PrintV2", "SaveSlices", "DebugIdentity",
    "DebugIdentityV2", "DebugIdentityV3", "RpcCall", "RpcClient", "RpcServer", "XlaHostCompute",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2",
}  # fmt: skip
SAVER_OPS = {"Save", "SaveV2", "Restore", "RestoreV2", "RestoreSlice", "MergeV2Checkpoints",
             "ShardedFilename"}  # fmt: skip
"""File ops that belong in a SavedModel's saver and nowhere else."""


def of_path(path: Path) -> tuple[FrameworkName, Path]:
    """The framework of a model file or folder, and the file or folder itself.

    A folder may be a SavedModel or hold exactly one model file. Raises ModelRefused.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "tensorflow", path
        found = [p for p in sorted(path.iterdir()) if p.suffix in (".keras", ".onnx")]
        if len(found) != 1:
            raise ModelRefused(
                f"{path.name}/ holds no model that is known: expected saved_model.pb, or one "
                f".keras or .onnx file; found {len(found)}.",
                hint=CONVERT,
            )
        return of_path(found[0])
    with path.open("rb") as file:
        head = file.read(8)
    if path.suffix in PICKLE_SUFFIXES or head[:1] == b"\x80" or _holds_pickle(path):
        raise ModelRefused(
            f"{path.name} is or may be a pickle, which runs code when it is loaded.", hint=CONVERT
        )
    if path.suffix == ".keras":
        return "keras", path
    if path.suffix == ".onnx":
        return "onnx", path
    why = {
        ".safetensors": "holds weights without the model's architecture",
        ".h5": "is the old Keras format, which can hold code",
        ".hdf5": "is the old Keras format, which can hold code",
    }.get(path.suffix, "is not a model file that is known")
    raise ModelRefused(
        f"{path.name} {why}; accepted are .keras, .onnx and SavedModel folders.", hint=CONVERT
    )


def _holds_pickle(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())


def check_keras(path: Path) -> None:
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


def check_saved_model(folder: Path) -> None:
    """Refuse a SavedModel whose graphs read or write files, or call Python."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if any(p.is_symlink() for p in folder.rglob("*")):
        raise ModelRefused(f"{folder.name} holds symbolic links.")
    saved = SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ModelRefused(f"{folder.name}/saved_model.pb is damaged: {error}.") from None
    for meta in saved.meta_graphs:
        functions = {f.signature.name: f for f in meta.graph_def.library.function}
        saver = meta.saver_def.save_tensor_name != ""
        savers = {name for name in functions if "save" in name or "restore" in name}
        found = {node.op for node in meta.graph_def.node}
        bad = found & (UNSAFE_OPS if saver else UNSAFE_OPS | SAVER_OPS)
        for name, function in functions.items():
            ops = {node.op for node in function.node_def}
            bad |= ops & (UNSAFE_OPS if name in savers else UNSAFE_OPS | SAVER_OPS)
        if bad:
            raise ModelRefused(
                f"{folder.name} has operations that read files or run code: {sorted(bad)}.",
                hint="Save the model without its input pipeline.",
            )


def check_onnx(path: Path) -> None:
    """Refuse ONNX whose external data lies outside the model's folder."""
    from google.protobuf.message import DecodeError

    from lmaas.frameworks.onnx import external_files

    try:
        names = external_files(path)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelRefused(f"{path.name} is not an ONNX model: {error}.") from None
    root = path.parent.resolve()
    for name in names:
        target = path.parent / name
        inside = target.resolve().is_relative_to(root) and not Path(name).is_absolute()
        if not inside or ".." in Path(name).parts or target.is_symlink():
            raise ModelRefused(
                f"{path.name} keeps data outside its folder: {name!a}.",
                hint="Put the external data beside the model.",
            )
        if not target.is_file():
            raise ModelRefused(f"{path.name} needs {name!a}, which is missing.")
