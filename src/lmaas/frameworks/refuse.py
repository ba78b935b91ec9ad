"""What a model file must not contain. Looks at bytes only: nothing here loads a model.

Pickles run code when they are loaded; a `.keras` can name Python functions; a SavedModel can read
files; ONNX can point outside its folder. Each is refused with the way to convert.
"""

import zipfile
from pathlib import Path

from lmaas.errors import ModelRefused
from lmaas.types import FrameworkName

PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".ckpt", ".sav", ".npy"}
CONVERT = (
    "Load it where you trust it and publish the live model: lmaas.publish(model, name=…, task=…, "
    "sample=…). Weights alone are shared as safetensors."
)


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
