"""SavedModels: which of their operations are refused, and what is looked at before loading one.

Whatever is not on the list of what only computes is refused, wherever it stands. A SavedModel's own
saver touches files: it is known by being what `saver_def` names, and is never run here.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused
from lmaas.runtime.native.tensorflow_ops import ALLOWED

SERVING: Final = "serving_default"
"""TensorFlow's name for the signature that is served."""
SAVER_OPS: Final = {"Save", "SaveV2", "Restore", "RestoreV2", "RestoreSlice", "MergeV2Checkpoints",
                    "ShardedFilename", "ShardedFilespec", "SaveSlices"}  # fmt: skip
"""What a saver has and nothing else may."""
WRITES: Final = {"Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"}
"""What it has to save with. Loading runs what restores, which may not have these."""


def is_unsafe(op: str) -> bool:
    """Whether an operation is not one of those that a graph may have."""
    return op not in ALLOWED


def check(folder: Path) -> None:
    """Refuse a SavedModel whose graphs reach out of themselves."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if any(p.is_symlink() for p in folder.rglob("*")):
        raise ModelRefused(f"{folder.name} holds symbolic links.")
    saved = SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelRefused(f"{folder.name}/saved_model.pb is damaged: {error}.") from None
    for meta in saved.meta_graphs:
        _check_meta(meta, folder.name)


def _check_meta(meta: Any, name: str) -> None:
    graph, saver = meta.graph_def, meta.saver_def
    functions = {f.signature.name: f for f in graph.library.function}
    named = {end.partition(":")[0] for end in (saver.save_tensor_name, saver.restore_op_name)}
    nodes = {node.name: node for node in graph.node}
    saving = _ancestors(nodes, named - {""})
    started = {
        tensor.name.partition(":")[0]
        for signature in meta.signature_def.values()
        for tensor in signature.outputs.values()
    }
    # What runs once after loading is named in collections.
    started |= {
        name.partition(":")[0]
        for collection in meta.collection_def.values()
        for name in collection.node_list.value
    }
    saving -= _ancestors(nodes, started)
    rest = [node for node in graph.node if node.name not in saving]
    own = _reached(functions, (f for name in saving for f in _called(nodes[name])))
    direct = {f for name in named - {""} if name in nodes for f in _called(nodes[name])}
    others = {f for f in meta.object_graph_def.concrete_functions if f not in direct}
    others |= {f for node in rest for f in _called(node)}
    own -= _reached(functions, others)
    bad = {node.op for node in rest if is_unsafe(node.op)}
    for key, function in functions.items():
        ops = {node.op for node in function.node_def if is_unsafe(node.op)}
        bad |= ops - SAVER_OPS if key in own else ops
    bad |= {node.op for node in graph.node if is_unsafe(node.op)} - SAVER_OPS
    restoring = _ancestors(nodes, {saver.restore_op_name.partition(":")[0]} - {""})
    run = _reached(functions, (f for name in restoring for f in _called(nodes[name])))
    bodies = [[nodes[name] for name in restoring], *(functions[key].node_def for key in run)]
    bad |= {node.op for body in bodies for node in body} & WRITES
    _refuse(name, bad)


def check_graph(graph: Any, name: str) -> None:
    """Refuse a graph alone, which has no saver."""
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    _refuse(name, {node.op for body in bodies for node in body if is_unsafe(node.op)})


def _refuse(name: str, bad: set[str]) -> None:
    if bad:
        raise ModelRefused(
            f"{name} has operations that reach out of the graph: {', '.join(sorted(bad))}.",
            hint="Save the model without its input pipeline, and give tables their values.",
        )


def _ancestors(nodes: dict[str, Any], names: Iterable[str]) -> set[str]:
    """The nodes that these need, themselves among them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in nodes:
            continue
        found.add(name)
        waiting += [given.lstrip("^").partition(":")[0] for given in nodes[name].input]
    return found


def _reached(functions: dict[str, Any], names: Iterable[str]) -> set[str]:
    """The functions that these call, themselves among them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in functions:
            continue
        found.add(name)
        waiting += [f for node in functions[name].node_def for f in _called(node)]
    return found


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        yield from (function.name for function in value.list.func)
