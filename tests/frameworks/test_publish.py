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
    assert service.models("default") == []
    service.close()
