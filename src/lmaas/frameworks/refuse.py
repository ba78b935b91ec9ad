"""Which model files are taken, and for the others the two lines that make one that is.

Looks at bytes and names only: nothing here loads a model. Pickles run code when they are loaded, so
they are loaded by their owner, who trusts them, and published live.
"""

import zipfile
from pathlib import Path
from typing import Final

from lmaas.errors import ModelRefused
from lmaas.runtime.native.script import is_script
from lmaas.types import FrameworkName

PUBLISH: Final = 'lmaas.publish(model, name="NAME", task="tensor", sample=x)'
LINES: Final[dict[str, tuple[str, str, str]]] = {
    "joblib": (
        "is a pickle, which runs code when it is loaded",
        'model = joblib.load("{path}")',
        PUBLISH,
    ),
    "pickle": (
        "is a pickle, which runs code when it is loaded",
        'model = pickle.load(open("{path}", "rb"))',
        PUBLISH,
    ),
    "weights": (
        "holds weights as a pickle, without the model they belong to",
        'model.load_state_dict(torch.load("{path}", weights_only=True))',
        PUBLISH,
    ),
    "safetensors": (
        "holds weights without the model they belong to",
        'safetensors.torch.load_model(model, "{path}")',
        PUBLISH,
    ),
    "exported": (
        "is an archive of torch.export, whose reader evaluates what is in it",
        'model = torch.export.load("{path}").module()',
        PUBLISH,
    ),
    "hdf5": (
        "is the old Keras format, which can hold code",
        'model = keras.saving.load_model("{path}")',
        'model.save("model.keras")',
    ),
    "python": (
        "is code, which is never run here",
        "from {stem} import model",
        PUBLISH,
    ),
}
"""Why a kind of file is refused, and the two lines that convert it."""
KIND_OF: Final = {
    ".joblib": "joblib", ".pkl": "pickle", ".pickle": "pickle", ".sav": "pickle", ".npy": "pickle",
    ".pt": "weights", ".pth": "weights", ".bin": "weights", ".ckpt": "weights",
    ".safetensors": "safetensors", ".pt2": "exported", ".h5": "hdf5", ".hdf5": "hdf5",
    ".py": "python", ".ipynb": "python",
}  # fmt: skip
TAKEN: Final[dict[str, FrameworkName]] = {
    ".keras": "keras", ".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite",
    ".pb": "tensorflow", ".ubj": "xgboost", ".json": "xgboost", ".txt": "lightgbm",
}  # fmt: skip
"""Files that are taken by their name; TorchScript is told by what is in it."""
ACCEPTED: Final = (
    ".keras, .onnx, OpenVINO's .xml with its .bin, .tflite, TorchScript, frozen .pb, XGBoost's "
    ".json or .ubj, LightGBM's .txt, SavedModel folders and checkpoints"
)


def of_path(path: Path) -> tuple[FrameworkName, Path]:
    """The framework of a model file or folder, and the file or folder itself.

    A folder may be a SavedModel or hold exactly one model file. Raises ModelRefused, with the two
    lines that convert it where they are known.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "tensorflow", path
        beside = (".json", ".txt") if any(path.glob("*.xml")) else (".json",)
        found = [p for p in sorted(path.iterdir()) if p.suffix in TAKEN and p.suffix not in beside]
        if len(found) != 1:
            raise ModelRefused(
                f"{path.name}/ holds no model that is known: expected saved_model.pb, or one "
                f"model file; found {len(found)}.",
                hint=f"Accepted are {ACCEPTED}.",
            )
        return of_path(found[0])
    with path.open("rb") as file:
        head = file.read(8)
    if is_script(path):
        return "pytorch", path
    suffix = path.suffix.lower()
    kind = KIND_OF.get(suffix)
    if kind is None and (head[:1] == b"\x80" or _holds_pickle(path)):
        kind = "pickle"
    if suffix in TAKEN and kind is None:
        return TAKEN[suffix], path
    if kind is None:
        raise ModelRefused(
            f"{path.name} is not a model file that is known; accepted are {ACCEPTED}.",
            hint=f"Load it where you trust it and publish the live model: {PUBLISH}",
        )
    why, first, second = LINES[kind]
    lines = "\n".join(
        line.replace("{path}", str(path)).replace("{stem}", path.stem) for line in (first, second)
    )
    raise ModelRefused(f"{path.name} {why}.", hint=f"Where you trust it:\n{lines}")


def _holds_pickle(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
