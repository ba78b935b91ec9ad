"""The import of files, called as the sandboxed child calls it."""

import sys
from pathlib import Path

import msgspec
import pytest

from lmaas.errors import InvalidInput, MissingExtra
from lmaas.frameworks import importer
from lmaas.types import PushOptions, TensorSpec


def test_a_framework_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    node = helper.make_node("Tanh", ["x"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    request = importer.ImportRequest(
        path=str(tmp_path / "m.onnx"),
        folder=str(tmp_path / "package"),
        options=PushOptions(name="m", task="tensor"),
    )
    with pytest.raises(MissingExtra, match=r"m\.onnx needs onnx") as caught:
        importer.run(msgspec.json.encode(request))
    assert "lmaas[onnx]" in str(caught.value.hint)


def test_samples_are_drawn_from_what_the_model_says() -> None:
    specs = [
        TensorSpec(name="x", dtype="float32", shape=(-1, 3)),
        TensorSpec(name="ids", dtype="int64", shape=(2, 5)),
    ]
    sample = importer.draw_sample(specs, 16)
    assert sample["x"].shape == (importer.SAMPLE_SIZE, 3)
    assert sample["ids"].shape == (2, 5)
    assert set(sample["ids"].ravel()) <= {0, 1}
    again = importer.draw_sample(specs, 16)
    assert all((sample[name] == again[name]).all() for name in sample)
    specs = [
        TensorSpec(name="x", dtype="float32", shape=(-1, -1, 3)),
        TensorSpec(name="text", dtype="string", shape=(-1,)),
    ]
    sample = importer.draw_sample(specs, 7)
    assert sample["x"].shape == (importer.SAMPLE_SIZE, 7, 3)
    assert all(isinstance(text, bytes) for text in sample["text"])


def test_sample_files(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not numpy")
    with pytest.raises(InvalidInput, match="cannot be read"):
        importer.read_sample(tmp_path / "x.npy")
    with pytest.raises(InvalidInput, match="safetensors"):
        importer.read_sample(tmp_path / "x.csv")
