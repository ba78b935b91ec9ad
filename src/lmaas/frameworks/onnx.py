"""ONNX, import only: the source's answers come from ONNX Runtime, not from what is checked."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.runtime import ov
from lmaas.runtime.native.onnx import ask, session
from lmaas.runtime.native.onnx_file import check, external_files
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec


class OnnxModel:
    """An ONNX file and the session that runs it."""

    def __init__(self, path: Path) -> None:
        check(path)
        self.path = path
        self.session = session(path)


class Onnx(Deterministic):
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

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """The file as it is, and the data files that it names."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path, folder / "model.onnx")
        for name in external_files(model.path):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.path.parent / name, folder / name)

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.onnx` file at `folder`, or `model.onnx` in it."""
        return OnnxModel(folder / "model.onnx" if folder.is_dir() else folder)

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs of ONNX Runtime."""
        return ask(model.session, arrays, [entry.name for entry in model.session.get_outputs()])

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Read by OpenVINO directly, or run by ONNX Runtime."""
        yield Form("openvino", "its graph", lambda _: ov.core().read_model(model.path))
        yield Form("onnxruntime", "as it is", lambda folder: self.save(model, folder, arrays))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """By the types of its weights."""
        import onnx

        kinds = {t.data_type for t in onnx.load(model.path, load_external_data=False).graph
                 .initializer}  # fmt: skip
        if onnx.TensorProto.FLOAT16 in kinds:
            return Facts("f16")
        return Facts("bf16" if onnx.TensorProto.BFLOAT16 in kinds else "f32")

    def num_parameters(self, model: Any) -> int:
        """Elements of all initializers."""
        import onnx

        graph = onnx.load(model.path, load_external_data=False).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


def _dtype(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


FRAMEWORK: Framework = Onnx()
