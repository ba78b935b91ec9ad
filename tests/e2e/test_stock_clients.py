"""A real server process, called by clients that know nothing of LMaaS."""

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from clients.table import CLIENTS, run
from servers import Running, png


def test_huggingface_hub(server: Running) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{server.url}/models/digits", token=server.call_key)
    labels = client.image_classification(png())
    assert len(labels) == 5
    assert labels[0].score >= labels[1].score
    assert len(client.image_classification(png(), top_k=2)) == 2


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient(server: Running, binary: bool) -> None:
    import tritonclient.http as triton

    headers = {"Authorization": f"Bearer {server.call_key}"}
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", headers=headers)
    told = client.get_model_metadata("digits", headers=headers)
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 784]}]
    values = np.random.default_rng(2).random((3, 784), np.float32)
    given = triton.InferInput("input", [3, 784], "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    wanted = [triton.InferRequestedOutput("output_0", binary_data=binary)]
    result = client.infer("digits", [given], outputs=wanted, headers=headers, model_version="1")
    assert result.as_numpy("output_0").shape == (3, 10)
    client.close()


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclients_extensions(server: Running, compression: str | None) -> None:
    import tritonclient.http as triton

    headers = {"Authorization": f"Bearer {server.call_key}"}
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    values = np.random.default_rng(2).random((40, 784), np.float32)
    given = triton.InferInput("input", [40, 784], "FP32")
    given.set_data_from_numpy(values)
    before = client.get_inference_statistics("digits", headers=headers)["model_stats"][0]
    result = client.infer(
        "digits",
        [given],
        headers=headers,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert result.as_numpy("output_0").shape == (40, 10)
    after = client.get_inference_statistics("digits", headers=headers)["model_stats"][0]
    ran, failed = (after["inference_stats"][name] for name in ("success", "fail"))
    assert ran["count"] == before["inference_stats"]["success"]["count"] + 1
    assert ran["ns"] > before["inference_stats"]["success"]["ns"]
    assert failed == before["inference_stats"]["fail"]
    assert after["last_inference"] > 0
    config = client.get_model_config("digits", headers=headers)
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [784]}]
    assert config["max_batch_size"] > 1
    index = client.get_model_repository_index(headers=headers)
    assert {"name": "digits", "version": "1", "state": "READY", "reason": ""} in index
    with pytest.raises(triton.InferenceServerException, match="scope admin"):
        client.load_model("digits", headers=headers)
    admin = {"Authorization": f"Bearer {server.key}"}
    client.load_model("digits", headers=admin)
    client.unload_model("digits", headers=admin)
    client.close()


def test_openai(server: Running) -> None:
    from openai import NotFoundError, OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key=server.call_key) as client:
        assert "digits" in [model.id for model in client.models.list()]
        assert client.models.retrieve("digits:1").id == "digits:1"
        with pytest.raises(NotFoundError) as caught:
            client.models.retrieve("digit")
        assert caught.value.code == "model_not_found"
        assert "digits" in caught.value.message
        assert caught.value.request_id


def test_the_oldest_openai(language: Running) -> None:
    oldest = Path(sys.prefix) / "oldest"
    assert oldest.is_dir(), "`make install` puts the oldest supported client there"
    (client,) = [client for client in CLIENTS if client.script == "openai_client"]
    done = run(client, language.url, language.call_key, path=oldest)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2.0.0\n"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/models/digits", {}, 401),
        ("/models/digits", {"authorization": "Bearer ' OR 1=1--"}, 401),
        ("/models/digits?key={key}", {}, 401),
        ("/models/digits", {"cookie": "key={key}"}, 401),
        ("/models/digits", {"authorization": "Bearer {key}", "x-api-key": "other"}, 401),
        ("/models/digits", {"x-api-key": "{key}"}, 200),
        ("/models/digits", {"x-api-key": "{key}", "host": "evil.example"}, 403),
        ("/models/digits", {"x-api-key": "{key}", "host": "x/health?"}, 403),
        ("/models/digits", {"x-api-key": "{key}", "origin": "http://evil.example"}, 403),
        ("/models/digits", {"x-api-key": "{key}", "origin": "null"}, 403),
        ("/api/models/digits/load", {"x-api-key": "{key}"}, 403),
        ("/nothing", {}, 401),
        ("/models/digitz", {"x-api-key": "{key}"}, 404),
        ("/models/%2e%2e%2fetc", {"x-api-key": "{key}"}, 404),
        ("/models/a%00b", {"x-api-key": "{key}"}, 400),
        ("/models/" + "a" * 300, {"x-api-key": "{key}"}, 400),
        ("/models/d%D1%96gits", {"x-api-key": "{key}"}, 400),
    ],
)
def test_who_may_ask_for_what(
    server: Running, path: str, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.replace("{key}", server.call_key) for name, value in headers.items()}
    url = server.url + path.replace("{key}", server.call_key)
    response = httpx.post(url, content=png(), headers=headers)
    assert response.status_code == status, response.text
    assert server.call_key not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"not an image", "image/png", 400),
        (b'{"inputs": [1, 2]}', "application/json", 400),
        (b'{"inputs": [NaN]}', "application/json", 400),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 400),
        (b"x" * 1_000_001, "image/png", 413),
    ],
)
def test_bad_bodies(server: Running, body: bytes, kind: str, status: int) -> None:
    headers = {"x-api-key": server.call_key, "content-type": kind}
    response = httpx.post(f"{server.url}/models/digits", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_the_server_loads_no_framework(server: Running) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "tensorflow" not in maps


def test_a_second_server_is_refused(server: Running) -> None:
    argv = [sys.executable, "-m", "lmaas", "--home", str(server.home), "serve", "--port", "0"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert str(server.pid).encode() in done.stderr


def test_metrics_count_what_was_answered(server: Running) -> None:
    headers = {"x-api-key": server.key}
    assert httpx.post(f"{server.url}/models/digits", content=png(), headers=headers).is_success
    told = httpx.get(f"{server.url}/metrics", headers=headers).text
    assert 'model="digits:1"' in told
    assert 'route="/models/{ref}"' in told
