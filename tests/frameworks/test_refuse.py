"""Model files that are refused before anything loads them."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lmaas.errors import ModelRefused
from lmaas.frameworks import refuse
from lmaas.runtime.native import keras_file as keras_files
from lmaas.runtime.native import onnx_file


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pkl", "m.joblib", "m.keras", "m.onnx"])
def test_pickles_are_refused_by_name_and_by_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelRefused, match=r"lmaas\.publish"):
        refuse.of_path(path)


def test_a_torch_archive_under_another_name_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "m.keras"
    torch.save({"a": 1}, path)
    with pytest.raises(ModelRefused):
        refuse.of_path(path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.h5", "m.csv"])
def test_other_files_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ModelRefused, match=name):
        refuse.of_path(tmp_path / name)


def keras_file(path: Path, config: Any, *extra: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        for name in extra:
            archive.writestr(name, b"x")
    return path


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"config": {"layers": [{"class_name": "Lambda", "module": "keras.layers"}]}}, "Lambda"),
        ({"class_name": "TFSMLayer", "module": "keras.layers"}, "TFSMLayer"),
        ({"a": [{"b": {"class_name": "__lambda__", "config": {}}}]}, "lambda"),
        ({"class_name": "Mine", "module": "os"}, "os.Mine"),
        ({"class_name": "Mine", "module": "kerasx.layers"}, "kerasx.layers.Mine"),
    ],
)
def test_keras_files_that_hold_or_name_code(tmp_path: Path, config: Any, told: str) -> None:
    with pytest.raises(ModelRefused, match=told):
        keras_files.check(keras_file(tmp_path / "m.keras", config))


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "a\\..\\b"])
def test_keras_archives_that_reach_outside(tmp_path: Path, member: str) -> None:
    with pytest.raises(ModelRefused, match="outside"):
        keras_files.check(keras_file(tmp_path / "m.keras", {}, member))


def test_a_damaged_keras_file(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelRefused, match=r"not a \.keras archive"):
        keras_files.check(tmp_path / "m.keras")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "absent.bin"])
def test_onnx_data_outside_its_folder(tmp_path: Path, location: str) -> None:
    from onnx import TensorProto, helper

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [out], [weights]
    )
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelRefused):
        onnx_file.check(folder / "m.onnx")
