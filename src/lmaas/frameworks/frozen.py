"""Frozen TensorFlow graphs (`.pb`): one GraphDef whose weights are constants."""

import re
from pathlib import Path
from typing import Any

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime.native import saved_model
from lmaas.runtime.native.tensorflow import import_tensorflow

NO_OUTPUT = {"Const", "Placeholder", "NoOp", "Assert", "PlaceholderWithDefault"}


def read(path: Path) -> Any:
    """The graph in `path`, checked. Raises ModelRefused."""
    from google.protobuf.message import DecodeError

    tf = import_tensorflow()
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelRefused(f"{path.name} is no TensorFlow graph: {error}.") from None
    if not graph.node:
        raise ModelRefused(
            f"{path.name} holds no graph.",
            hint="A saved_model.pb is pushed with its folder.",
        )
    saved_model.check_graph(graph, path.name)
    return graph


def load(path: Path) -> Any:
    """A `tf.Module` that takes the graph's placeholders and gives what nothing in it reads."""
    tf = import_tensorflow()
    graph = read(path)
    inputs = {_plain(node.name): node.name for node in graph.node if node.op == "Placeholder"}
    read_by = {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}
    outputs = {
        _plain(node.name): node.name
        for node in graph.node
        if node.name not in read_by and node.op not in NO_OUTPUT
    }
    if not inputs or not outputs:
        raise InvalidInput(f"{path.name} has no placeholder, or nothing comes out of it.")
    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    tensor = wrapped.graph.get_tensor_by_name
    pruned = wrapped.prune(
        [tensor(f"{name}:0") for name in inputs.values()],
        {told: tensor(f"{name}:0") for told, name in outputs.items()},
    )
    specs = [
        tf.TensorSpec(tensor(f"{name}:0").shape, tensor(f"{name}:0").dtype, told)
        for told, name in inputs.items()
    ]

    class Frozen(tf.Module):  # type: ignore[misc, name-defined]
        """The graph as a module."""

        def __init__(self) -> None:
            super().__init__()
            self.pruned = pruned

        @tf.function(input_signature=specs)  # type: ignore[untyped-decorator]
        def __call__(self, *tensors: Any) -> Any:
            """Outputs by name."""
            return self.pruned(*tensors)

    return Frozen()


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)
