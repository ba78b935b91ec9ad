"""OpenVINO's own files, import only: a folder with an `.xml` and its `.bin`.

What is served is the file itself, at our names and shapes, compared with the file as it came.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.runtime import ov
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec

FILE: Final = "model.xml"
DTYPES: Final = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"} | {
    f"{sign}{bits}": f"{name}{bits}"
    for sign, name in (("i", "int"), ("u", "uint"))
    for bits in (8, 16, 32, 64)
}


class IrModel:
    """A file and the compiled model that answers for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelRefused(
                f"{path.name} is an OpenVINO model without its weights: there is no "
                f"{weights.name} beside it.",
                hint="Push the folder that holds both.",
            )
        try:
            self.graph = ov.core().read_model(path)
            config = {"INFERENCE_PRECISION_HINT": "f32"}
            self.compiled = ov.core().compile_model(self.graph, "CPU", config)
        except RuntimeError as error:
            told = " ".join(str(error).split())[-300:]
            raise InvalidInput(f"{path.name} is no OpenVINO model that runs: {told}") from None
        self.inputs = [_name(port, f"input_{i}") for i, port in enumerate(self.compiled.inputs)]
        self.outputs = [_name(port, f"output_{i}") for i, port in enumerate(self.compiled.outputs)]


class OpenVinoIr(Deterministic):
    """Verbs for OpenVINO's files."""

    name: FrameworkName = "openvino"

    def owns(self, model: Any) -> bool:
        """Whether `model` is what `load` returned."""
        return isinstance(model, IrModel)

    def version(self) -> str:
        """OpenVINO's version."""
        return str(ov.load().__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """The graph's inputs. Raises InvalidInput for numbers that numpy does not have."""
        found = []
        for name, port in zip(model.inputs, model.compiled.inputs, strict=True):
            kind = port.get_element_type().get_type_name()
            if kind not in DTYPES:
                raise InvalidInput(f"The input {name} holds {kind}, which is not served.")
            shape = tuple(
                -1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            )
            found.append(TensorSpec(name=name, dtype=DTYPES[kind], shape=shape))
        return found

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The graph's input names."""
        return list(model.inputs)

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """Both files as they are."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".xml", ".bin"):
            path = (folder / FILE).with_suffix(suffix)
            shutil.copyfile(model.path.with_suffix(suffix), path)

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.xml` file at `folder`, or the only one in it."""
        if folder.is_dir():
            (folder,) = folder.glob("*.xml")
        return IrModel(folder)

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs of the model as it came."""
        given = [np.require(array, requirements=("C", "W")) for array in arrays.values()]
        results = model.compiled(given)
        return {name: np.array(results[i]) for i, name in enumerate(model.outputs)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """The graph itself."""
        yield Form("openvino", "as it is", lambda _: ov.core().read_model(model.path))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Whole numbers where the graph quantises what it computes; else by its constants."""
        kinds = {
            node.get_element_type().get_type_name()
            for node in model.graph.get_ops()
            if node.get_type_name() == "Constant"
        }
        operations = {node.get_type_name() for node in model.graph.get_ops()}
        if "FakeQuantize" in operations:
            return Facts("int8")
        if "f16" in kinds and "f32" not in kinds:
            return Facts("f16")
        return Facts("f32")

    def num_parameters(self, model: Any) -> int:
        """Elements of all constants."""
        return sum(
            int(np.prod(node.shape))
            for node in model.graph.get_ops()
            if node.get_type_name() == "Constant"
        )


def _name(port: Any, other: str) -> str:
    """A port's first name in order; ports may have none."""
    names = sorted(port.get_names())
    return names[0] if names else other


FRAMEWORK: Framework = OpenVinoIr()
