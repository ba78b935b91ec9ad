"""Models as users have them, published into a home."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmaas
from lmaas.config import Settings
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.service import Service
from lmaas.types import ModelVersion

X = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)


def source_of(home: Path, version: ModelVersion, path: str) -> bytes:
    """The bytes of a stored source file."""
    service = Service(Settings(home=str(home)))
    try:
        folder = service.registry.unpack(version, home / "out", ("source",))
        return (folder / "source" / path).read_bytes()
    finally:
        service.close()


def files(version: ModelVersion) -> set[str]:
    return {Path(f.path).name for f in version.files if f.role == "source"}


def test_a_module_with_keywords_and_a_data_class(tmp_path: Path) -> None:
    import torch
    from torch import nn

    @dataclasses.dataclass
    class Output:
        logits: Any
        hidden: Any = None

    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(6, 2), nn.Dropout(0.9)

        def forward(self, x: Any, *, mask: Any = None) -> Output:
            hidden = self.drop(self.layer(x if mask is None else x * mask))
            return Output(logits=hidden.softmax(-1))

    model = Model().train()
    sample = {"mask": np.ones_like(X), "x": X}
    version = lmaas.publish(model, name="m", task="tensor", sample=sample, home=tmp_path)
    assert [spec.name for spec in version.manifest.signature.inputs] == ["mask", "x"]
    assert [spec.name for spec in version.manifest.signature.outputs] == ["logits"]
    assert model.training
    assert model.drop.training
    assert torch.is_grad_enabled()
    assert files(version) == {"weights.safetensors", "module.json"}


def test_a_transformers_model_that_cannot_be_traced(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        num_labels=3, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, vocab_size=50,
    )  # fmt: skip
    ids = np.random.default_rng(1).integers(0, 50, (4, 9))
    sample = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    version = lmaas.publish(
        BertForSequenceClassification(config),
        name="bert",
        task="tensor",
        sample=sample,
        home=tmp_path,
    )
    assert version.manifest.signature.batch
    assert [spec.name for spec in version.manifest.signature.outputs] == ["logits"]


def test_a_keras_model_with_a_layer_of_ones_own_keeps_no_code(tmp_path: Path) -> None:
    import keras

    class Mine(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2.0

    for name, layer in (("own", Mine()), ("code", keras.layers.Lambda(lambda x: x + 1))):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2), layer])
        version = lmaas.publish(model, name=name, task="tensor", sample=X, home=tmp_path)
        assert files(version) == {"weights.safetensors", "module.json"}


def test_an_onnx_file_keeps_its_bytes_and_its_data_files(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    sizes = {"x": 6, "y": 2}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in sizes.items()
    ]
    weights = numpy_helper.from_array(np.ones((6, 2), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    home = tmp_path / "home"
    version = lmaas.publish(path, name="m", task="tensor", home=home)
    assert files(version) == {"model.onnx", "w.data"}
    assert source_of(home, version, "model.onnx") == path.read_bytes()


def test_a_keras_model_whose_call_names_its_inputs(tmp_path: Path) -> None:
    import keras

    class Pair(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = keras.layers.Dense(2)

        def call(self, left: Any, right: Any) -> Any:
            return self.layer(left - right)

    sample = {"right": X * 2, "left": X}
    version = lmaas.publish(Pair(), name="m", task="tensor", sample=sample, home=tmp_path)
    assert [spec.name for spec in version.manifest.signature.inputs] == ["right", "left"]


def test_a_sample_takes_the_types_that_the_model_declares(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["n", 6]) for n in "xyz"]
    node = helper.make_node("Add", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "g", ends[:2], ends[2:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    version = lmaas.publish(tmp_path / "m.onnx", name="m", task="tensor", home=tmp_path / "home")
    assert {spec.dtype for spec in version.manifest.signature.inputs} == {"float64"}
    for sample, told in (
        (X, "1 arrays"),
        ({"x": X}, "inputs"),
        ({"x": X > 0, "y": X + 1j}, "numbers|cannot"),
    ):
        with pytest.raises(InvalidInput, match=told):
            lmaas.publish(
                tmp_path / "m.onnx", name="m", task="tensor", sample=sample, home=tmp_path / "home"
            )


def test_a_whole_number_sample_of_a_float_model_is_served_as_floats(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(2)])
    whole = np.ones((5, 6), np.int64)
    version = lmaas.publish(model, name="m", task="tensor", sample=whole, home=tmp_path)
    assert version.manifest.signature.inputs[0].dtype == "float32"
    ids = keras.Sequential([keras.Input((7,), dtype="int32"), keras.layers.Embedding(5, 2)])
    with pytest.raises(InvalidInput, match="int32"):
        lmaas.publish(ids, name="i", task="tensor", sample=np.ones((5, 7)), home=tmp_path)


def test_a_saved_model_without_a_signature(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(tf.ones(3))
    tf.saved_model.save(module, str(tmp_path / "saved"))
    for sample in (None, X):
        with pytest.raises(InvalidInput, match=r"signature|does not say"):
            lmaas.publish(
                tmp_path / "saved", name="m", task="tensor", sample=sample, home=tmp_path / "home"
            )


def test_a_saved_model_as_an_object_and_as_a_folder(tmp_path: Path) -> None:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones((6, 2)))

        @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return {"y": x @ self.w}

    module = Module()
    folder = tmp_path / "saved"
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    home = tmp_path / "home"
    loaded = tf.saved_model.load(str(folder))
    first = lmaas.publish(loaded, name="object", task="tensor", sample=X, home=home)
    assert first.manifest.framework == "tensorflow"
    second = lmaas.publish(folder, name="folder", task="tensor", home=home)
    assert second.manifest.lineage.origin == "push"
    assert second.manifest.signature.inputs == first.manifest.signature.inputs
    stored = source_of(home, second, "saved_model.pb")
    assert stored == (folder / "saved_model.pb").read_bytes()


def test_a_keras_file_is_kept_as_it_came(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(3)])
    path = tmp_path / "my model.keras"
    model.save(path)
    version = lmaas.publish(
        path, name="k", task="image-classification", sample=X, labels=["a", "b", "c"],
        image=lmaas.ImageSpec(height=2, width=3, channels=1, layout="flat"), home=tmp_path,
    )  # fmt: skip
    assert source_of(tmp_path, version, "model.keras") == path.read_bytes()
    assert version.manifest.signature.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda folder: folder / "none.keras", InvalidInput, "does not exist"),
        (lambda folder: folder, ModelRefused, "no model"),
        (lambda folder: object(), InvalidInput, "nn.Module"),
    ],
)
def test_what_is_no_model(tmp_path: Path, make: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        lmaas.publish(make(tmp_path), name="m", task="tensor", sample=X, home=tmp_path / "home")


def test_a_damaged_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(InvalidInput, match="damaged"):
        lmaas.publish(tmp_path / "saved", name="m", task="tensor", home=tmp_path / "home")


def test_a_package_folder_is_pushed_under_another_name(tmp_path: Path) -> None:
    import torch

    from lmaas.frameworks import package

    folder = tmp_path / "package"
    package.build(torch.nn.Linear(6, 2), name="old", task="tensor", sample=X, folder=folder)
    assert lmaas.publish(folder, name="new", task="tensor", home=tmp_path).ref == "new:1"
    with pytest.raises(InvalidInput, match="labels"):
        lmaas.publish(folder, name="new", task="tensor", labels=["a"], home=tmp_path)
    with pytest.raises(InvalidInput, match="task"):
        lmaas.publish(folder, name="new", task="image-classification", home=tmp_path)


def test_a_model_whose_answers_depend_on_python_is_not_registered(tmp_path: Path) -> None:
    import torch

    class Fickle(torch.nn.Module):  # type: ignore[misc]
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return x * self.calls

    from lmaas.errors import ParityFailed

    with pytest.raises(ParityFailed):
        lmaas.publish(Fickle(), name="m", task="tensor", sample=X, home=tmp_path)
    service = Service(Settings(home=str(tmp_path)))
    assert service.catalog.latest("default") == []
    service.close()


def test_publishing_changes_neither_the_model_nor_random_numbers(tmp_path: Path) -> None:
    import keras
    import torch

    class Noise(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)

    class Random(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(6)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            self.last = self.norm(x)
            return self.last + torch.randn_like(x)

    random = Random().train()
    torch.manual_seed(5)
    np.random.seed(5)
    threads = torch.get_num_threads()
    before = {name: value.clone() for name, value in random.state_dict().items()}
    lmaas.publish(random, name="r", task="tensor", sample=X, home=tmp_path)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert random.training
    assert all(torch.equal(value, before[name]) for name, value in random.state_dict().items())
    assert torch.get_num_threads() == threads
    layer = Noise()
    model = keras.Sequential([keras.Input((6,)), layer])
    state = keras.ops.convert_to_numpy(layer.seeds.state).copy()
    drawn = np.random.get_state()[1].copy()  # type: ignore[index]
    lmaas.publish(model, name="n", task="tensor", sample=X, home=tmp_path)
    assert np.array_equal(keras.ops.convert_to_numpy(layer.seeds.state), state)
    assert np.array_equal(np.random.get_state()[1], drawn)  # type: ignore[index]
