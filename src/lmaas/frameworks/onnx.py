"""ONNX, import only: the source's answers come from ONNX Runtime, not from what is checked."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput, MissingExtra
from lmaas.frameworks.base import Framework
from lmaas.runtime import ov
from lmaas.tasks import Row
from lmaas.types import FrameworkName, TensorSpec


class OnnxModel:
    """An ONNX file and the session that runs it."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra(
                "ONNX models need onnxruntime.", hint="pip install 'lmaas[onnx]'"
            ) from None
        self.path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options)
        except Exception as error:  # noqa: BLE001 - each of its failures is a class of its own
            raise InvalidInput(f"{path.name} cannot be run: {error}.") from None


class Onnx:
    """Verbs for ONNX files."""

    name: FrameworkName = "onnx"

    def owns(self, model: Any) -> bool:
        """Whether `model` is what `load` returned."""
        return isinstance(model, OnnxModel)

    def version(self) -> str:
        """ONNX Runtime's version."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """The graph's inputs."""
        return [
            TensorSpec(
                name=entry.name,
                dtype=_dtype(entry.type),
                shape=tuple(size if isinstance(size, int) else -1 for size in entry.shape),
            )
            for entry in model.session.get_inputs()
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The graph's input names."""
        return [entry.name for entry in model.session.get_inputs()]

    def fit(
        self,
        model: Any,
        x: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> list[float]:
        """Refused: ONNX is for inference."""
        raise InvalidInput("ONNX models cannot be trained.", hint="Train in the source framework.")

    def save(self, model: Any, folder: Path, arrays: Row) -> None:
        """The file as it is, and the data files that it names."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path, folder / "model.onnx")
        for name in external_files(model.path):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.path.parent / name, folder / name)

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.onnx` file at `folder`, or `model.onnx` in it."""
        return OnnxModel(folder / "model.onnx" if folder.is_dir() else folder)

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs of ONNX Runtime."""
        names = [entry.name for entry in model.session.get_outputs()]
        return dict(zip(names, model.session.run(names, arrays), strict=True))

    def convert(self, model: Any, arrays: Row) -> Any:
        """Read by OpenVINO directly."""
        return ov.load().convert_model(model.path)

    def num_parameters(self, model: Any) -> int:
        """Elements of all initializers."""
        import onnx

        graph = onnx.load(model.path, load_external_data=False).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


def external_files(path: Path) -> list[str]:
    """The data files that an ONNX file names, relative to its folder."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    tensors = onnx.external_data_helper._get_all_tensors(model)
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _dtype(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


FRAMEWORK: Framework = Onnx()
