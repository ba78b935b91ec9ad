"""scikit-learn: any estimator or pipeline that skl2onnx converts; its own answers are the measure.

A table of named columns becomes one input a column, (N, 1); an array one input, `features`.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.runtime import ov
from lmaas.runtime.native.onnx import MODEL
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec

INPUT: Final = "features"
VOTING: Final = {"RandomForest", "ExtraTrees", "Bagging", "DecisionTree", "KNeighbors", "Voting"}
TIE: Final = 1e-5
"""Probabilities that are nearer to each other are equal."""


class ScikitLearn(Deterministic):
    """Verbs for scikit-learn's estimators."""

    name: FrameworkName = "scikit-learn"

    def owns(self, model: Any) -> bool:
        """Whether `model` is an estimator."""
        import sklearn.base

        return isinstance(model, sklearn.base.BaseEstimator)

    def version(self) -> str:
        """scikit-learn's version."""
        import sklearn

        return str(sklearn.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """An estimator does not say of which types its columns are."""
        return []

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The one input."""
        return [INPUT]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`model.onnx`, and what the estimator was: no file of the estimator itself is safe."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).write_bytes(_onnx(model, arrays))
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        (folder / "estimator.json").write_text(json.dumps({"class": kind, "repr": repr(model)}))

    def load(self, folder: Path, like: Any = None) -> Any:
        """Refused: an estimator is not kept, as its files are pickles."""
        raise InvalidInput("A scikit-learn estimator is not kept; its model.onnx is.")

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """`label` and `probabilities` of a classifier, else `variable`."""
        given = _table(arrays)
        if hasattr(model, "predict_proba"):
            return {
                "label": _array(model.predict(given)),
                "probabilities": _array(model.predict_proba(given)),
            }
        if hasattr(model, "predict"):
            found = _array(model.predict(given))
            return {"variable": found[:, np.newaxis] if found.ndim == 1 else found}
        found = model.transform(given)
        return {"variable": _array(found.toarray() if hasattr(found, "toarray") else found)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Converted by skl2onnx, for OpenVINO or ONNX Runtime."""

        def compiled(_: Path) -> Any:
            with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
                path = Path(scratch) / MODEL
                path.write_bytes(_onnx(model, arrays))
                return ov.load().convert_model(path)

        def native(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MODEL).write_bytes(_onnx(model, arrays))

        yield Form("openvino", "by skl2onnx", compiled)
        yield Form("onnxruntime", "by skl2onnx", native)

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Converted estimators compute in float32, unless they are given float64."""
        decided = {"label": "probabilities"} if hasattr(model, "predict_proba") else {}
        return Facts("f32", decided_by=decided)

    def num_parameters(self, model: Any) -> int:
        """Elements of the fitted arrays at the top of the estimator."""
        fitted = (v for k, v in vars(model).items() if k.endswith("_"))
        return sum(int(value.size) for value in fitted if isinstance(value, np.ndarray))


def _table(arrays: Tensors) -> Any:
    """What the estimator is called with: an array, or a table where it has named columns."""
    if list(arrays) == [INPUT]:
        return _plain(arrays[INPUT])
    import pandas

    return pandas.DataFrame({name: _plain(array)[:, 0] for name, array in arrays.items()})


def _plain(array: np.ndarray) -> np.ndarray:
    if not strings.is_text(array):
        return array
    texts: np.ndarray = np.vectorize(lambda element: element.decode(), otypes=[object])(array)
    return texts


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if strings.is_text(array):
        return strings.from_objects(array, name="The output")
    # Converted estimators give numbers in float32, and classes in int64, truth values too.
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _onnx(model: Any, arrays: Tensors) -> bytes:
    try:
        import skl2onnx
        from skl2onnx.common.data_types import (
            BooleanTensorType,
            DoubleTensorType,
            FloatTensorType,
            Int64TensorType,
            StringTensorType,
        )
    except ImportError:
        raise MissingExtra(
            "scikit-learn models are converted by skl2onnx.", hint="pip install 'lmaas[sklearn]'"
        ) from None
    kinds = {"float64": DoubleTensorType, "bool": BooleanTensorType, "string": StringTensorType}
    types = []
    for name, array in arrays.items():
        told = strings.dtype_name(array)
        whole = Int64TensorType if array.dtype.kind in "iu" else FloatTensorType
        types.append((name, kinds.get(told, whole)([None, *array.shape[1:]])))
    options: dict[int, dict[str, Any]] = {
        id(step): {"locale": "C.UTF-8"} for step in _steps(model) if hasattr(step, "token_pattern")
    }
    if hasattr(model, "predict_proba"):
        options[id(model)] = {"zipmap": False}
    converted = skl2onnx.to_onnx(model, initial_types=types, options=options or None)
    if hasattr(model, "predict_proba") and _is_largest(model, arrays):
        _take_first_largest(converted, model.classes_)
    return bytes(converted.SerializeToString())


def _is_largest(model: Any, arrays: Tensors) -> bool:
    """Whether the label is the first class of the largest probability, by votes that may tie."""
    last = _steps(model)[-1]
    if type(last).__name__.removesuffix("Classifier") not in VOTING:
        return False
    given = _table(arrays)
    largest = model.classes_[model.predict_proba(given).argmax(1)]
    return bool(np.array_equal(model.predict(given), largest))


def _take_first_largest(converted: Any, classes: np.ndarray) -> None:
    """Tell the label from the probabilities, the first of those that are equal.

    Votes of a forest tie exactly, and sums of shares in float32 break such ties by chance.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = converted.graph
    label, probabilities = (output.name for output in graph.output)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == label:
                node.output[index] = f"{label}_by_votes"
        for index, name in enumerate(node.input):
            if name == label:
                node.input[index] = f"{label}_by_votes"
    texts = classes.dtype.kind in "OSU"
    kept = classes.astype(str) if texts else classes.astype(np.int64)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1 / TIE], np.float32), f"{label}_steps"),
            helper.make_tensor(
                f"{label}_classes",
                TensorProto.STRING if texts else TensorProto.INT64,
                [len(kept)],
                [str(name).encode() for name in kept] if texts else kept.tolist(),
            ),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Cast", [probabilities], [f"{label}_f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{label}_f", f"{label}_steps"], [f"{label}_m"]),
            helper.make_node("Round", [f"{label}_m"], [f"{label}_r"]),
            helper.make_node("ArgMax", [f"{label}_r"], [f"{label}_i"], axis=1, keepdims=0),
            helper.make_node("Gather", [f"{label}_classes", f"{label}_i"], [label]),
        ]
    )


def _steps(model: Any) -> list[Any]:
    """An estimator and those that it is made of."""
    inner = [step for _, step, *_ in getattr(model, "steps", getattr(model, "transformers", []))]
    return [model, *(each for step in inner for each in _steps(step))]


FRAMEWORK: Framework = ScikitLearn()
