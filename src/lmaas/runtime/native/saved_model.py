"""SavedModels: which of their operations are refused, and what is looked at before loading one."""

from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused

SERVING: Final = "serving_default"
"""TensorFlow's name for the signature that is served."""
UNSAFE_OPS: Final = {
    "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc",
    "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2",
    "TFRecordReader", "TFRecordReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2",
    "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset",
    "FixedLengthRecordDatasetV2", "CSVDataset", "CSVDatasetV2", "SqlDataset", "LoadDataset",
    "SaveDataset", "SaveDatasetV2", "DatasetFromGraph", "PrintV2", "SaveSlices", "DebugIdentity",
    "DebugIdentityV2", "DebugIdentityV3", "RpcCall", "RpcClient", "RpcServer", "XlaHostCompute",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2",
}  # fmt: skip
SAVER_OPS: Final = {"Save", "SaveV2", "Restore", "RestoreV2", "RestoreSlice", "MergeV2Checkpoints",
             "ShardedFilename"}  # fmt: skip
"""File ops that belong in a SavedModel's saver and nowhere else."""


def check(folder: Path) -> None:
    """Refuse a SavedModel whose graphs read or write files, or call Python."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if any(p.is_symlink() for p in folder.rglob("*")):
        raise ModelRefused(f"{folder.name} holds symbolic links.")
    saved = SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ModelRefused(f"{folder.name}/saved_model.pb is damaged: {error}.") from None
    for meta in saved.meta_graphs:
        saver = meta.saver_def.save_tensor_name != ""
        check_graph(meta.graph_def, folder.name, saver=saver)


def check_graph(graph: Any, name: str, *, saver: bool = False) -> None:
    """Refuse a graph that reads or writes files, or calls Python; `saver` says it may have one."""
    functions = {f.signature.name: f for f in graph.library.function}
    savers = {n for n in functions if saver and ("save" in n or "restore" in n)}
    bad = {node.op for node in graph.node} & (UNSAFE_OPS if saver else UNSAFE_OPS | SAVER_OPS)
    for key, function in functions.items():
        ops = {node.op for node in function.node_def}
        bad |= ops & (UNSAFE_OPS if key in savers else UNSAFE_OPS | SAVER_OPS)
    if bad:
        raise ModelRefused(
            f"{name} has operations that read files or run code: {sorted(bad)}.",
            hint="Save the model without its input pipeline.",
        )
