"""TensorFlow Lite files, import only: run by OpenVINO, compared with TensorFlow's interpreter."""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.runtime import ov
from lmaas.runtime.native.tensorflow import import_tensorflow
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec

FILE: Final = "model.tflite"


class LiteModel:
    """A file and the interpreter that runs it."""

    def __init__(self, path: Path) -> None:
        tf = import_tensorflow()
        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.interpreter = tf.lite.Interpreter(str(path))
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InvalidInput(f"{path.name} cannot be run: {str(error)[:300]}") from None
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()


class Lite(Deterministic):
    """Verbs for `.tflite` files."""

    name: FrameworkName = "tflite"

    def owns(self, model: Any) -> bool:
        """Whether `model` is what `load` returned."""
        return isinstance(model, LiteModel)

    def version(self) -> str:
        """TensorFlow's version."""
        return str(import_tensorflow().__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """The graph's inputs."""
        return [
            TensorSpec(
                name=str(told["name"]),
                dtype=np.dtype(told["dtype"]).name,
                shape=tuple(int(size) for size in told["shape_signature"]),
            )
            for told in model.inputs
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The graph's input names."""
        return [str(told["name"]) for told in model.inputs]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """The file as it is."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path, folder / FILE)

    def load(self, folder: Path, like: Any = None) -> Any:
        """The `.tflite` file at `folder`, or `model.tflite` in it."""
        return LiteModel(folder / FILE if folder.is_dir() else folder)

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs of the interpreter."""
        interpreter = model.interpreter
        for told, array in zip(model.inputs, arrays.values(), strict=True):
            interpreter.resize_tensor_input(told["index"], array.shape)
        interpreter.allocate_tensors()
        for told, array in zip(model.inputs, arrays.values(), strict=True):
            interpreter.set_tensor(told["index"], array)
        interpreter.invoke()
        return {
            str(told["name"]): np.array(interpreter.get_tensor(told["index"]))
            for told in model.outputs
        }

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Read by OpenVINO directly."""
        yield Form("openvino", "its graph", lambda _: ov.core().read_model(model.path))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Whole numbers where any tensor of the graph is quantised."""
        kinds = {np.dtype(told["dtype"]).name for told in model.interpreter.get_tensor_details()}
        scaled = any(told["quantization"][0] for told in model.interpreter.get_tensor_details())
        if scaled:
            return Facts("int8")
        return Facts("f16" if "float16" in kinds else "f32")

    def num_parameters(self, model: Any) -> int:
        """Elements of the graph's constant tensors, as far as the interpreter tells."""
        return sum(
            int(np.prod(told["shape"]))
            for told in model.interpreter.get_tensor_details()
            if told["shape"].size
        )


FRAMEWORK: Framework = Lite()
