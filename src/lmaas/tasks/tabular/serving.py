"""The task `tabular`: rows of named values in; a class with scores, or a number, out.

A JSON call gives `inputs` as one object (`{"age": 31, "job": "nurse"}`) or a list of them; null
is a missing value. A classifier answers `[{"label", "score"}]` for a row, best first, a regression
`{"value"}`; a list of rows is answered by a list. A table of columns (`tables`) is answered by one
label or number a row. Tensors are the model's own features and outputs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.codecs import tensor
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors, refuse_file, softmax
from lmaas.tasks.labels import Label, label_records, show_labels
from lmaas.tasks.tabular import tables
from lmaas.tasks.tabular.columns import Columns
from lmaas.tasks.tabular.spec import SPEC
from lmaas.types import BATCH, JSON, TENSORS, Answer, Payload, Signature


class Value(msgspec.Struct, frozen=True):
    """What a regression tells of a row, in the target's units."""

    value: float


class Tabular:
    """Rows in, classes or numbers out."""

    spec = SPEC

    def __init__(self, columns: Columns | None = None) -> None:
        self._columns = columns

    @property
    def columns(self) -> Columns:
        """What the model reads; only a bound task knows."""
        assert self._columns is not None
        return self._columns

    def bind(self, folder: Path) -> Task:
        """This task with the columns in `folder`."""
        return Tabular(Columns.load(folder))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that is neither a classifier nor a regression of one row of features."""
        for field in ("image", "language"):
            if getattr(signature, field) is not None:
                raise InvalidInput(f"A tabular model takes no {field}.", param=field)
        shapes = [(t.dtype, t.shape) for t in (*signature.inputs, *signature.outputs)]
        if (
            (len(signature.inputs), len(signature.outputs)) != (1, 1)
            or not signature.batch
            or any(dtype != "float32" or len(shape) != 2 for dtype, shape in shapes)
            or any(shape[0] != BATCH or shape[1] < 1 for _, shape in shapes)
        ):
            raise InvalidInput(
                "A tabular model has one float32 input [-1, features] and one float32 output "
                f"[-1, classes] or [-1, 1]; received {shapes}."
            )
        outputs = signature.outputs[0].shape[1]
        if signature.labels is None:
            if outputs != 1 or signature.outputs_are is not None:
                raise InvalidInput("A regression has one output and no outputs_are.")
        elif len(set(signature.labels)) != outputs or len(signature.labels) != outputs:
            raise InvalidInput(
                f"The model has {outputs} classes; received {len(signature.labels)} labels.",
                param="labels",
            )
        elif signature.outputs_are is None:
            raise InvalidInput("outputs_are must be logits or probabilities.", param="outputs_are")
        return signature

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Rows to features."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(payload, "rows of named values", tables.HINT)
        given, parameters = tables.read(payload.body)
        for name in (*parameters, *payload.parameters):
            raise InvalidInput(f"Parameter {name!r} is not supported by this task.", param=name)
        rows = given.rows
        width = signature.inputs[0].shape[1]
        if self.columns.width != width:
            raise LMaaSError(f"The model reads {width} features; its columns make others.")
        if len(rows) * width > limits.max_elements:
            raise PayloadTooLarge(
                f"{len(rows)} rows make {len(rows) * width} numbers; at most "
                f"{limits.max_elements} are accepted.",
                param="inputs",
            )
        features = self.columns.encode(self.columns.read(rows), len(rows))
        return Batch(
            arrays={signature.inputs[0].name: features},
            size=len(rows),
            single=given.shape == "row",
            parameters={"shape": given.shape},
        )

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Labels with scores, or values."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        values = outputs[signature.outputs[0].name]
        if not np.isfinite(values).all():
            raise LMaaSError("The model's outputs hold NaN or infinity for this input.")
        results: list[Any]
        if signature.labels is None:
            told = values[:, 0].astype(np.float64) * self.columns.std + self.columns.mean
            results = [Value(value) for value in told.tolist()]
        else:
            scores = probabilities(values, signature)
            results = [
                [Label(signature.labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")]
                for row in scores
            ]
        shape = batch.parameters["shape"]
        if shape in ("table", "data"):
            best = [each[0].label if isinstance(each, list) else each.value for each in results]
            results = tables.predictions(best, shape)
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities of a classifier, a regression's outputs as they are."""
        if signature.labels is None:
            return outputs
        return {name: probabilities(values, signature) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy of a classifier; errors of a regression, in the units of its outputs."""
        values = outputs[signature.outputs[0].name]
        if signature.labels is not None:
            return {"accuracy": float(np.mean(values.argmax(axis=1) == targets))}
        off = values[:, 0].astype(np.float64) - targets
        return {"rmse": float(np.sqrt(np.mean(off**2))), "mae": float(np.mean(np.abs(off)))}

    def shown(self, result: Any) -> Shown:
        """Labels with scores, or a line for each number."""
        rows = [result] if isinstance(result, dict) else result
        if rows and isinstance(rows[0], dict) and "value" in rows[0]:
            return Shown((), [(f"{row['value']:.6g}",) for row in rows])
        return show_labels(result)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The rows as they are."""
        return list(rows)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The likeliest label and its score, or the number."""
        if result and isinstance(result[0], dict):
            return [{"prediction": row["value"]} for row in result]
        return label_records(result)


def probabilities(values: np.ndarray, signature: Signature) -> np.ndarray:
    """A classifier's outputs as probabilities."""
    return values if signature.outputs_are == "probabilities" else softmax(values)


TASK: Task = Tabular()
