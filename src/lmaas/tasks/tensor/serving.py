"""The task `tensor`: named arrays in, named arrays out, for any model.

JSON calls take `{"inputs": {"x": [...], ...}}`, or the bare array when the model has one input,
with or without the batch axis, and answer `{"outputs": {...}}` in the same way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.codecs import json, tensor
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors, batch_size, read_tensors, refuse_file
from lmaas.tasks.tensor.spec import SPEC
from lmaas.types import JSON, TENSORS, Answer, Payload, Signature, TensorSpec


class TensorTask:
    """Arrays in, arrays out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """The task itself: it needs no files."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse what only other tasks read, and dtypes that the protocol cannot carry."""
        given = (signature.labels, signature.image, signature.outputs_are)
        for field, value in zip(("labels", "image", "outputs_are"), given, strict=True):
            if value is not None:
                raise InvalidInput(f"The task tensor takes no {field}.", param=field)
        if not signature.inputs or not signature.outputs:
            raise InvalidInput("A model needs at least one input and one output.")
        for spec in (*signature.inputs, *signature.outputs):
            if spec.dtype not in tensor.DATATYPES:
                raise InvalidInput(
                    f"Tensor {spec.name!r} has dtype {spec.dtype}; served are "
                    f"{', '.join(tensor.DATATYPES)}."
                )
        return signature

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Arrays from an Open Inference Protocol or a JSON body."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(payload, "arrays", _how(signature))
        call = json.read_call(payload.body)
        for name in (*(call.parameters or ()), *payload.parameters):
            raise InvalidInput(f"Parameter {name!r} is not supported by this task.", param=name)
        given = call.inputs
        if not isinstance(given, dict):
            if len(signature.inputs) != 1:
                raise InvalidInput("This model has several inputs.", hint=_how(signature))
            given = {signature.inputs[0].name: given}
        names = {spec.name for spec in signature.inputs}
        if set(given) != names:
            raise InvalidInput(
                f"Expected the inputs {sorted(names)}; received {sorted(map(str, given))}.",
                param="inputs",
            )
        arrays: Tensors = {}
        singles = set()
        for spec in signature.inputs:
            array = tensor.read_json(given[spec.name], spec, limits)
            single = signature.batch and array.ndim == len(spec.shape) - 1
            singles.add(single)
            arrays[spec.name] = array[np.newaxis] if single else array
        tensor.check_arrays(arrays, signature)
        if len(singles) != 1:
            raise InvalidInput("Either all inputs have a batch axis or none.", param="inputs")
        size = batch_size(arrays, signature)
        return Batch(arrays=arrays, size=size, single=singles.pop())

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """`{"outputs": {name: nested lists}}`, or the Open Inference Protocol response."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        result: dict[str, Any] = {
            name: tensor.to_lists(array[0] if batch.single else array, name)
            for name, array in outputs.items()
        }
        return Answer(body=msgspec.json.encode({"outputs": result}))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Raw outputs are compared as they are."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Mean absolute and root mean squared error of the first output."""
        difference = outputs[signature.outputs[0].name].astype(np.float64) - targets
        return {
            "mae": float(np.abs(difference).mean()),
            "rmse": float(np.sqrt(np.square(difference).mean())),
        }

    def shown(self, result: Any) -> Shown:
        """A line for each output."""
        return Shown((), [(f"{name}: {value}",) for name, value in result["outputs"].items()])

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """Arrays by input name, or from rows of texts (CSV) the numbers in their columns' order."""
        if any(isinstance(value, str) for row in rows for value in row.values()):
            return [_vector(row, index) for index, row in enumerate(rows)]
        for index, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise InvalidInput(f"inputs[{index}]: has other inputs than the row before.")
        return {name: [row[name] for row in rows] for name in rows[0]}

    def records(self, result: Any) -> list[dict[str, Any]]:
        """Each output; of an array of one number that number."""
        outputs = result["outputs"]
        return [
            {name: _alone(value) for name, value in zip(outputs, values, strict=True)}
            for values in zip(*outputs.values(), strict=True)
        ]


def _vector(row: Mapping[str, Any], index: int) -> list[float]:
    numbers = []
    for name, cell in row.items():
        try:
            numbers.append(float(cell))
        except (TypeError, ValueError):
            raise InvalidInput(
                f"inputs[{index}]: {name!r} must be a number; received {cell!r:.80}."
            ) from None
    return numbers


def _alone(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _how(signature: Signature) -> str:
    def show(spec: TensorSpec) -> str:
        return f'"{spec.name}": {spec.dtype} {list(spec.shape)}'

    return f'Send JSON {{"inputs": {{{", ".join(show(spec) for spec in signature.inputs)}}}}}.'


TASK: Task = TensorTask()
