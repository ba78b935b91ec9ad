"""The kit that every engine of arrays passes. A new one is tested by adding a maker to MAKERS."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime.engine import ENGINES, Engine, make_engine
from lmaas.types import Signature, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
WEIGHTS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, 6)),
        TensorSpec(name="y", dtype="float32", shape=(-1, 6)),
    ),
    outputs=(TensorSpec(name="sum", dtype="float32", shape=(-1, 3)),),
)


def openvino(folder: Path) -> None:
    import openvino
    import openvino.opset13 as ops

    x, y = (ops.parameter([-1, 6], np.float32) for _ in range(2))
    product = ops.matmul(ops.add(x, y), ops.constant(WEIGHTS), False, False)
    graph = openvino.Model([ops.result(product)], [x, y], "sum")
    for port, name in zip((*graph.inputs, *graph.outputs), ("x", "y", "sum"), strict=True):
        port.set_names({name})
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=False)


def torch(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": WEIGHTS}, folder / "weights.safetensors")
    (folder / "program.json").write_text(json.dumps(PROGRAM))


PROGRAM: dict[str, Any] = {
    "inputs": ["x", "y"],
    "outputs": ["sum"],
    "weights": {"p_w": "w"},
    "graph": {
        "inputs": ["p_w", "x", "y"],
        "nodes": [
            {"name": "a", "op": "aten.add.Tensor", "args": [{"node": "x"}, {"node": "y"}]},
            {"name": "s", "op": "aten.matmul.default", "args": [{"node": "a"}, {"node": "p_w"}]},
        ],
        "outputs": [{"node": "s"}],
    },
}


def torchscript(folder: Path) -> None:
    import torch

    class Sum(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(WEIGHTS))

        def forward(self, x, y):  # type: ignore[no-untyped-def]
            return (x + y) @ self.w

    torch.jit.script(Sum()).save(str(folder / "script.pt"))


def tensorflow(folder: Path) -> None:
    import tensorflow as tf

    holder = tf.Module()
    holder.w = tf.Variable(WEIGHTS)
    specs = {name: tf.TensorSpec([None, 6], tf.float32, name=name) for name in ("x", "y")}
    graph = tf.function(lambda x, y: {"sum": (x + y) @ holder.w}).get_concrete_function(**specs)
    tf.saved_model.save(holder, str(folder), signatures={"serving_default": graph})


def keras(folder: Path) -> None:
    import keras

    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    layer = keras.layers.Dense(3, use_bias=False)
    model = keras.Model([x, y], layer(keras.layers.add([x, y])))
    layer.set_weights([WEIGHTS])
    model.save(folder / "model.keras")


def onnxruntime(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 6), ("y", 6), ("sum", 3))
    ]
    nodes = [
        helper.make_node("Add", ["x", "y"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["sum"]),
    ]
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, folder / "model.onnx")


MAKERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "openvino": ("openvino", openvino),
    "torch, a program": ("torch", torch),
    "torch, TorchScript": ("torch", torchscript),
    "tensorflow": ("tensorflow", tensorflow),
    "keras": ("keras", keras),
    "onnxruntime": ("onnxruntime", onnxruntime),
}


@pytest.fixture(params=list(MAKERS), scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    name, make = MAKERS[request.param]
    folder = tmp_path_factory.mktemp("model")
    make(folder)
    made = make_engine(name)
    made.warm()
    made.load(folder, SIGNATURE, "f32", 0)
    return made


def body(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays as a request's body has them."""
    whole = np.random.default_rng(seed).standard_normal((2, rows, 6)).astype(np.float32)
    raw = whole.tobytes()
    half = rows * 6
    return {
        name: np.frombuffer(raw, np.float32, half, offset=n * half * 4).reshape(rows, 6)
        for n, name in enumerate(("x", "y"))
    }


def test_every_engine_is_in_the_kit() -> None:
    arrays = {name for name, spec in ENGINES.items() if spec.worker == "arrays"}
    assert {name for name, _ in MAKERS.values()} == arrays
    assert all(spec.name == name for name, spec in ENGINES.items())


def test_any_batch_of_read_only_arrays(engine: Engine) -> None:
    for rows in (1, 2, 5, 700, 3):
        arrays = body(rows, rows)
        assert not arrays["x"].flags.writeable
        (got,) = engine.infer(arrays).values()
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, (arrays["x"] + arrays["y"]) @ WEIGHTS, atol=1e-4)


def test_outputs_stay_what_they_are(engine: Engine) -> None:
    first = engine.infer(body(4, 1))["sum"]
    kept = first.copy()
    engine.infer(body(4, 2))
    np.testing.assert_array_equal(first, kept)


def test_what_does_not_fit_is_invalid_and_harms_nothing(engine: Engine) -> None:
    wrong = body(4, 3) | {"x": np.zeros((4, 7), np.float32)}
    with pytest.raises(InvalidInput):
        engine.infer(wrong)
    engine.cancel()
    arrays = body(2, 4)
    got = engine.infer(arrays)["sum"]
    np.testing.assert_allclose(got, (arrays["x"] + arrays["y"]) @ WEIGHTS, atol=1e-4)


# What the files of a native engine must not do


def refuse(name: str, folder: Path, word: str) -> None:
    with pytest.raises(ModelRefused, match=word):
        make_engine(name).load(folder, SIGNATURE, "f32", 0)


@pytest.mark.parametrize(
    "op", ["aten.from_file.default", "os.system", "plain.__import__", "torch.load", "exec", ""]
)
def test_a_program_with_another_operation(tmp_path: Path, op: str) -> None:
    torch(tmp_path)
    program = json.loads(json.dumps(PROGRAM))
    program["graph"]["nodes"][0]["op"] = op
    (tmp_path / "program.json").write_text(json.dumps(program))
    refuse("torch", tmp_path, "operation|program")


def test_a_program_with_arguments_of_another_kind(tmp_path: Path) -> None:
    torch(tmp_path)
    for argument in ({"dtype": "__class__"}, {"eval": "1"}, {"layout": "jagged"}):
        program = json.loads(json.dumps(PROGRAM))
        program["graph"]["nodes"][0]["args"][1] = argument
        (tmp_path / "program.json").write_text(json.dumps(program))
        made = make_engine("torch")
        made.load(tmp_path, SIGNATURE, "f32", 0)
        with pytest.raises((ModelRefused, InvalidInput)):
            made.infer(body(1, 1))


def test_a_script_that_reads_files(tmp_path: Path) -> None:
    import torch

    class Reads(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return torch.from_file("/etc/hostname", False, 2, dtype=torch.uint8) + x

    torch.jit.script(Reads()).save(str(tmp_path / "script.pt"))
    refuse("torch", tmp_path, "from_file")


def test_a_saver_that_writes_where_it_should_restore(tmp_path: Path) -> None:
    """Loading runs what restores; what that waits for runs too."""
    import tensorflow as tf

    from lmaas.runtime.native import saved_model

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        weights = v1.get_variable("w", shape=[2, 1], use_resource=True)
        y = tf.matmul(x, weights)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        restore = graph.get_operation_by_name(saver.saver_def.restore_op_name)
        written = tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "written"),
            tensor_names=["p"],
            shape_and_slices=[""],
            tensors=[tf.constant("payload")],
        )
        restore._add_control_input(written)
        builder = v1.saved_model.Builder(str(tmp_path / "saved"))
        told = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": told}, saver=saver
        )
        builder.save()
    with pytest.raises(ModelRefused, match="SaveV2"):
        saved_model.check(tmp_path / "saved")
    assert not list(tmp_path.glob("written*"))


def test_operations_that_reach_out_are_on_no_list() -> None:
    """By TensorFlow's own registry: whatever is named after files, networks or Python."""
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client import pywrap_tf_session

    from lmaas.runtime.native.tensorflow_ops import ALLOWED

    listed = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    known = OpList.FromString(bytes(listed))
    names = {op.name for op in known.op}
    outward = re.compile(
        "File|Dataset|Iterator|Reader|Summary|Save|Restore|Checkpoint|PyFunc|Rpc|Send|Recv|Debug|"
        "Print|Remote|Queue|Barrier|Sql|LoadAnd|Session|SnapshotDataset|Lmdb|LMDB|CSVDataset|TFRecord|"
        "Event|Mutex|Outfeed|Infeed|Collective|Abort|Sleep|Assets|VocabRemapping|ImmutableConst"
    )
    reaching = {name for name in names if outward.search(name)}
    assert len(reaching) > 200
    assert not reaching & ALLOWED
    assert names >= ALLOWED


def test_a_saved_model_that_reads_files(tmp_path: Path) -> None:
    import tensorflow as tf

    holder = tf.Module()
    graph = tf.function(lambda x: {"sum": tf.io.read_file(x)}).get_concrete_function(
        x=tf.TensorSpec([], tf.string)
    )
    tf.saved_model.save(holder, str(tmp_path), signatures={"serving_default": graph})
    refuse("tensorflow", tmp_path, "ReadFile")


def test_a_keras_file_with_code(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Lambda(lambda x: x)])
    model.save(tmp_path / "model.keras")
    refuse("keras", tmp_path, "Lambda")


def write(path: Any) -> Any:
    """A function whose name is a saver's, and that writes."""
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)]
    )
    return tf.constant(0.0)


@pytest.mark.parametrize("kind", ["in the signature", "by a saver's name", "of many kinds"])
def test_a_saved_model_that_writes(tmp_path: Path, kind: str) -> None:
    import tensorflow as tf

    holder = tf.Module()
    spec = tf.TensorSpec([], tf.string, name="x")
    if kind == "of many kinds":
        inner = tf.function(lambda x: tf.io.serialize_tensor(tf.raw_ops.DecodeProtoV2(
            bytes=x, message_type="m", field_names=[], output_types=[]).sizes))  # fmt: skip
    else:
        inner = tf.function(lambda x: write(x), input_signature=[spec])
        inner.python_function.__name__ = "traced_save"
    graph = tf.function(lambda x: {"sum": inner(x)}).get_concrete_function(x=spec)
    tf.saved_model.save(holder, str(tmp_path), signatures={"serving_default": graph})
    if kind == "by a saver's name":
        rename_functions(tmp_path / "saved_model.pb")
    refuse("tensorflow", tmp_path, "SaveV2|DecodeProto")


def rename_functions(path: Path) -> None:
    """Give every function of a SavedModel a name that a saver's might have."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    saved.ParseFromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    names = {
        f.signature.name: f"__inference__traced_save_restore_{n}"
        for n, f in enumerate(meta.graph_def.library.function)
    }
    bodies = [meta.graph_def.node, *(f.node_def for f in meta.graph_def.library.function)]
    for function in meta.graph_def.library.function:
        function.signature.name = names[function.signature.name]
    for node in (node for body in bodies for node in body):
        for value in node.attr.values():
            if value.func.name in names:
                value.func.name = names[value.func.name]
    path.write_bytes(saved.SerializeToString())
