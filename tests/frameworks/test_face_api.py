"""face-api's recognition model: its files are read as they are meant, or refused by name."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas.errors import InvalidInput, LMaaSError, ModelRefused
from lmaas.frameworks import face_api, importer
from lmaas.types import Manifest, PushOptions
from training_kit import verified

BIN = "face_recognition_model.bin"


def write(folder: Path, **changes: Any) -> Path:
    """Random weights of the network's shapes; `changes` are to its first array's entry."""
    folder.mkdir()
    random = np.random.default_rng(0)
    entries, data = [], b""
    for name, shape in face_api.shapes().items():
        count = int(np.prod(shape))
        steps = random.integers(0, 256, count, np.uint8)
        data += steps.tobytes()
        # About zero; scales about one.
        spread, low = (0.004, 0.5) if name.endswith("scale/weights") else (0.0008, -0.1)
        told = {"dtype": "uint8", "scale": spread, "min": low}
        entries.append({"name": name, "shape": shape, "dtype": "float32", "quantization": told})
    entries[0].update(changes)
    manifest = [{"weights": entries, "paths": [BIN]}]
    (folder / face_api.MANIFEST).write_text(json.dumps(manifest))
    (folder / BIN).write_bytes(data)
    return folder


def push(folder: Path, target: Path, **options: Any) -> Manifest:
    told = importer.ImportRequest(
        path=str(folder), folder=str(target), options=PushOptions(name="faces", **options)
    )
    return msgspec.json.decode(importer.run(msgspec.json.encode(told)), type=Manifest)


def test_a_model_becomes_an_embedder(tmp_path: Path) -> None:
    assert len(face_api.shapes()) == 117, "as in the package's own manifest"
    manifest = push(write(tmp_path / "model"), tmp_path / "package")
    assert (manifest.task, manifest.engine) == ("face-recognition", "openvino")
    assert manifest.signature.face is not None
    assert (manifest.signature.face.dimensions, manifest.signature.face.rates) == (128, ())
    assert manifest.signature.image == face_api.IMAGE
    verified(tmp_path / "package")


def test_numbers_are_scaled_and_the_scale_layer_is_multiplied_in(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    found = face_api._weights(folder)
    steps = np.frombuffer((folder / BIN).read_bytes()[: 7 * 7 * 3 * 32], np.uint8)
    np.testing.assert_allclose(
        found["conv32_down/conv/filters"].ravel(), steps * 0.0008 - 0.1, atol=1e-6
    )
    network = face_api._network(found)
    import torch

    pixels = torch.randn(1, 3, 9, 9)
    name = "conv32_down"
    filters = torch.from_numpy(found[f"{name}/conv/filters"]).permute(3, 2, 0, 1)
    plain = torch.nn.functional.conv2d(
        pixels, filters, torch.from_numpy(found[f"{name}/conv/bias"]), stride=2
    )
    scale = torch.from_numpy(found[f"{name}/scale/weights"])[:, None, None]
    shift = torch.from_numpy(found[f"{name}/scale/biases"])[:, None, None]
    torch.testing.assert_close(network.stem(pixels), plain * scale + shift, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [7, 7, 3, 31]},
        {"name": "another"},
        {"quantization": {"dtype": "uint8", "scale": 1e39, "min": 0}},
        {"quantization": {"dtype": "int4", "scale": 1, "min": 0}},
        {"quantization": None},
        {"shape": "none"},
        {"shape": [-7, 7, 3, 32]},
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused):
        push(write(tmp_path / "model", **changes), tmp_path / "package")


def test_other_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    data = (folder / BIN).read_bytes()
    told = json.loads((folder / face_api.MANIFEST).read_bytes())

    def refused(**files: Any) -> None:
        with pytest.raises(LMaaSError):
            push(folder, tmp_path / "package", **files)

    (folder / BIN).write_bytes(data[:-1])
    refused()
    (folder / BIN).write_bytes(data + b"0")
    refused()
    (folder / BIN).write_bytes(data)
    (tmp_path / "secret").write_bytes(data)
    for path in ("../secret", "/etc/passwd", "", "missing.bin"):
        told[0]["paths"] = [path]
        (folder / face_api.MANIFEST).write_text(json.dumps(told))
        refused()
    for text in ("{", "[]", '[{"weights": [], "paths": []}]', "[" * 100_000):
        (folder / face_api.MANIFEST).write_text(text)
        refused()
    with pytest.raises(InvalidInput, match="labels"):
        push(folder, tmp_path / "package", labels=("a",))
    with pytest.raises(InvalidInput, match="tensor"):
        push(folder, tmp_path / "package", task="tensor")
