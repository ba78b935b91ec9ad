"""Publishing to a server over HTTP, and what a bad upload gets."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lmaas.client import Client, connect_async
from lmaas.errors import Conflict, InvalidInput, ModelNotFound, ModelRefused, ParityFailed
from lmaas.types import PushOptions
from servers import Running


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url, server.key) as client:
        yield client


def make_model() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def test_a_live_model_is_published_aliased_called_and_removed(client: Client) -> None:
    import torch

    model, x = make_model(), torch.rand(5, 6)
    version = client.publish(model, name="remote", task="tensor", sample=x, card="# Remote")
    assert version.ref == "remote:1"
    assert version.manifest.card == "# Remote"
    with torch.no_grad():
        want = model(x).numpy()
    got = client.predict("remote", {"input": x.numpy()})["output_0"]
    np.testing.assert_allclose(got, want, atol=1e-5)

    async def again() -> str:
        async with connect_async(client.url, client.key) as other:
            second = await other.publish(model, name="remote", task="tensor", sample=x)
            await other.set_alias("remote", "production", 1)
            return second.ref

    assert asyncio.run(again()) == "remote:2"
    assert client.model("remote@production").ref == "remote:1"
    assert [v.version for v in client.versions("remote")] == [1, 2]
    with pytest.raises(Conflict):
        client.remove("remote:1")
    assert [v.ref for v in client.remove("remote:1", force=True)] == ["remote:1"]
    assert client.model("remote").version == 2
    client.remove("remote")
    with pytest.raises(ModelNotFound):
        client.predict("remote", [1.0] * 6)


def test_an_onnx_file_with_a_sample(client: Client, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "tanh.onnx")
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    for number, sample in enumerate((None, str(tmp_path / "x.npy")), 1):
        options = PushOptions(name="tanh", task="tensor", sample=sample)
        version = client.push(tmp_path / "tanh.onnx", options)
        assert version.ref == f"tanh:{number}"
        assert version.manifest.signature.inputs[0].shape == (-1, -1)
        got = client.predict("tanh", {"x": np.full((1, 3), 0.5, np.float32)})["y"]
        np.testing.assert_allclose(got, np.tanh([[0.5, 0.5, 0.5]]), atol=1e-6)


def test_the_command_line_works_on_a_server_of_another_machine(
    server: Running, tmp_path: Path
) -> None:
    import torch

    from lmaas.frameworks import package

    folder = tmp_path / "package"
    package.build(make_model(), name="far", task="tensor", sample=torch.rand(4, 6), folder=folder)
    environment = {name: v for name, v in os.environ.items() if not name.startswith("LMAAS_")}
    environment |= {
        "LMAAS_URL": server.url,
        "LMAAS_KEY": server.key,
        "LMAAS_HOME": str(tmp_path / "home"),
    }

    def lmaas(*argv: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "lmaas", *argv, "--json"],
            env=environment, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return json.loads(done.stdout)

    assert lmaas("push", str(folder), "--name", "far", "--task", "tensor")["name"] == "far"
    assert "far" in [model["name"] for model in lmaas("models", "list")]
    assert lmaas("models", "alias", "far", "best", "1")["aliases"] == ["best"]
    assert [v["version"] for v in lmaas("models", "show", "far")] == [1]
    assert lmaas("models", "rm", "far", "--yes", "--force")[0]["name"] == "far"
    made = lmaas("keys", "create", "--name", "from afar")
    assert made["id"] in [key["id"] for key in lmaas("keys", "list")]
    assert lmaas("keys", "revoke", made["id"])["id"] == made["id"]
    assert not (tmp_path / "home").exists()


def test_a_pickle_is_refused_with_the_way_out(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ModelRefused, match=r"lmaas\.publish"):
        client.push(path, PushOptions(name="pickled", task="tensor"))
    assert "pickled" not in client.models()


def lambda_keras(folder: Path) -> Path:
    import keras

    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]
    keras.Sequential(layers).save(folder / "lambda.keras")
    return folder / "lambda.keras"


def custom_keras(folder: Path) -> Path:
    import keras

    class Mine(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2.0

    keras.Sequential([keras.Input((4,)), Mine()]).save(folder / "custom.keras")
    return folder / "custom.keras"


def reading_saved_model(folder: Path) -> Path:
    import tensorflow as tf

    class Reader(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
        def __call__(self, name: Any) -> Any:
            return tf.map_fn(tf.io.read_file, name)

    tf.saved_model.save(Reader(), str(folder / "reader"))
    return folder / "reader"


def reaching_onnx(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    (folder / "reaching.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return folder / "reaching.onnx"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda_keras, "Lambda"),
        (custom_keras, "Mine"),
        (reading_saved_model, "ReadFile"),
        (reaching_onnx, "outside"),
    ],
)
def test_files_that_hold_code_or_reach_outside(
    client: Client, tmp_path: Path, make: Any, told: str
) -> None:
    with pytest.raises(ModelRefused, match=told):
        client.push(make(tmp_path), PushOptions(name="unsafe", task="tensor"))
    assert "unsafe" not in client.models()


def test_a_package_that_lies_is_refused(client: Client, tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import load_file, save_file

    from lmaas.frameworks import package

    folder = tmp_path / "package"
    package.build(make_model(), name="liar", task="tensor", sample=torch.rand(4, 6), folder=folder)
    sample = load_file(folder / "sample.safetensors")
    save_file({n: a + (n.startswith("out.")) for n, a in sample.items()},
              folder / "sample.safetensors")  # fmt: skip
    with pytest.raises(ParityFailed):
        client.push(folder, None)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InvalidInput):
        client.push(folder, None)
    assert "liar" not in client.models()


BOUNDARY = "b0undary"


def part(head: str, body: bytes) -> bytes:
    return (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"
    )


FILE = part('name="file"; filename="m.onnx"', b"x" * 5000)
OPTIONS = part('name="options"', json.dumps({"name": "m", "task": "tensor"}).encode())
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (FILE + OPTIONS, "cut off"),
        (FILE[:900], "cut off"),
        (b"nothing of a form", "damaged"),
        (OPTIONS + END, "file"),
        (FILE + END, "name and a task"),
        (FILE + OPTIONS + END, "ONNX"),
        (FILE + FILE + OPTIONS + END, "twice"),
        (part('name="file"; filename="../../m.onnx"', b"x") + OPTIONS + END, "relative path"),
        (part('name="file"; filename="/etc/m.onnx"', b"x") + OPTIONS + END, "relative path"),
        (part('name="file"', b"x") + OPTIONS + END, "not known"),
        (part('name="other"; filename="m"', b"x") + END, "not known"),
        (FILE + part('name="options"', b'{"name": "m", "tsk": 1}') + END, "tsk"),
        (FILE + part('name="options"', b'{"name": "../m", "task": "tensor"}') + END, "name"),
    ],
)
def test_bad_forms(server: Running, body: bytes, told: str) -> None:
    headers = {**server.admin, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    response = httpx.post(f"{server.url}/api/models", content=body, headers=headers, timeout=60)
    assert response.status_code == 400, response.text
    assert told in response.text
    scratch = server.home / "tmp"
    assert not scratch.exists() or not list(scratch.iterdir())
    assert httpx.get(f"{server.url}/v1/models", headers=server.caller).is_success


def test_an_upload_that_is_no_form(server: Running) -> None:
    response = httpx.post(f"{server.url}/api/models", json={}, headers=server.admin)
    assert response.status_code == 400
    assert "multipart" in response.json()["detail"]
