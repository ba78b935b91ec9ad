"""The Open Inference Protocol over gRPC, by Triton's own client."""

import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from lmaas.http import grpc_messages
from lmaas.registry.lock import HomeLock
from servers import Running, serving

with warnings.catch_warnings():
    # The client's generated code is of an older protobuf than TensorFlow needs.
    warnings.simplefilter("ignore")
    import grpc
    import tritonclient.grpc as triton
    from tritonclient.grpc import model_config_pb2, service_pb2
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub


class Served(NamedTuple):
    """A server that speaks gRPC at `address`."""

    running: Running
    address: str

    @property
    def caller(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.running.call_key}"}

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.running.key}"}


@pytest.fixture(scope="module")
def served(digits_home: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("grpc") / "home"
    shutil.copytree(digits_home, home)
    with serving(home, grpc_port=0, max_body_bytes=1_000_000) as running:
        deadline = time.monotonic() + 20
        while "grpc" not in (live := HomeLock.read(home) or {}):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Served(running, live["grpc"])


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def values_of(rows: int) -> np.ndarray:
    return np.random.default_rng(2).random((rows, 784), np.float32)


def tensors(rows: int = 3) -> Any:
    given = triton.InferInput("input", [rows, 784], "FP32")
    given.set_data_from_numpy(values_of(rows))
    return [given]


def place(field: Any) -> tuple[Any, ...]:
    many = field.is_repeated
    return field.name, field.number, field.type, many


def test_the_messages_are_the_clients() -> None:
    """Every field has the name, number and type that the client's has."""
    seen = set()

    def same(ours: Any, theirs: Any) -> None:
        if ours.full_name in seen:
            return
        seen.add(ours.full_name)
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert place(field) == place(other), field.full_name
            if field.message_type is not None:
                assert field.message_type.full_name == other.message_type.full_name
                same(field.message_type, other.message_type)
            if field.enum_type is not None:
                told = {value.name: value.number for value in field.enum_type.values}
                assert told == {value.name: value.number for value in other.enum_type.values}

    for name, kind in grpc_messages._classes().items():
        if "." not in name:
            theirs = getattr(service_pb2, name, None) or getattr(model_config_pb2, name)
            same(kind.DESCRIPTOR, theirs.DESCRIPTOR)
    assert len(seen) > 40


def test_the_stock_client_infers(served: Served, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", headers=served.caller)
    assert not client.is_model_ready("nothing", headers=served.caller)
    given = tensors()
    told = client.infer("digits", given, headers=served.caller, request_id="7", model_version="1")
    response = told.get_response()
    assert (response.model_name, response.model_version, response.id) == ("digits", "1", "7")
    tensor = {"name": "input", "shape": [3, 784], "datatype": "FP32"}
    body = {"inputs": [{**tensor, "data": values_of(3).ravel().tolist()}]}
    url = f"{served.running.url}/v2/models/digits/infer"
    other = httpx.post(url, json=body, headers=served.caller).json()["outputs"][0]
    expected = np.reshape(other["data"], other["shape"])
    np.testing.assert_allclose(told.as_numpy("output_0"), expected, rtol=1e-5, atol=1e-6)
    named = [triton.InferRequestedOutput("output_0")]
    again = client.infer("digits", given, outputs=named, headers={"x-api-key": served.running.key})
    np.testing.assert_array_equal(again.as_numpy("output_0"), told.as_numpy("output_0"))


def test_numbers_may_stand_in_contents(served: Served) -> None:
    request = service_pb2.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 784])
    tensor.contents.fp32_contents.extend(values_of(1).ravel().tolist())
    metadata = tuple(served.caller.items())
    with grpc.insecure_channel(served.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request, metadata=metadata)
        assert np.frombuffer(answer.raw_output_contents[0], "<f4").shape == (10,)
        tensor.datatype = "FP16"
        with pytest.raises(grpc.RpcError, match="raw_input_contents"):
            stub.ModelInfer(request, metadata=metadata)
        tensor.datatype = "INT8"
        tensor.contents.int_contents.append(1000)
        with pytest.raises(grpc.RpcError, match="do not fit INT8"):
            stub.ModelInfer(request, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            stub.SystemSharedMemoryStatus(
                service_pb2.SystemSharedMemoryStatusRequest(), metadata=metadata
            )
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="is no ModelInferRequest"):
            raw(b"\xff\xff", metadata=metadata)


def test_the_stock_client_streams(served: Served, client: Any) -> None:
    told: list[Any] = []
    enough = threading.Event()

    def heard(result: Any, error: Any) -> None:
        told.append((result, error))
        if len(told) == 41:
            enough.set()

    client.start_stream(heard, headers=served.caller)
    for number in range(40):
        client.async_stream_infer("digits", tensors(number % 5 + 1), request_id=str(number))
    client.async_stream_infer("nothing", tensors())
    assert enough.wait(30)
    client.stop_stream()
    assert [result.get_response().id for result, _ in told[:40]] == [str(n) for n in range(40)]
    assert [len(result.as_numpy("output_0")) for result, _ in told[:6]] == [1, 2, 3, 4, 5, 1]
    assert "no model" in str(told[40][1])


def test_an_answer_comes_before_the_next_request(served: Served, client: Any) -> None:
    came = threading.Event()
    client.start_stream(lambda result, error: came.set(), headers=served.caller)
    for _ in range(3):
        came.clear()
        client.async_stream_infer("digits", tensors(1))
        assert came.wait(20)
    client.stop_stream()


def test_the_stock_client_sees_the_models(served: Served, client: Any) -> None:
    given = {"headers": served.caller, "as_json": True}
    assert client.get_server_metadata(**given)["name"] == "lmaas"
    metadata = client.get_model_metadata("digits", **given)
    assert metadata["inputs"][0]["shape"] == ["-1", "784"]
    config = client.get_model_config("digits", **given)["config"]
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": ["784"]}]
    client.infer("digits", tensors(), headers=served.caller)
    (numbers,) = client.get_inference_statistics("digits", **given)["model_stats"]
    assert int(numbers["inference_stats"]["success"]["count"]) > 0
    (entry,) = client.get_model_repository_index(**given)["models"]
    assert (entry["name"], entry["version"], entry["state"]) == ("digits", "1", "READY")
    with pytest.raises(triton.InferenceServerException, match="scope admin") as caught:
        client.load_model("digits", headers=served.caller)
    assert "PERMISSION_DENIED" in caught.value.status()
    client.load_model("digits", headers=served.admin)
    client.unload_model("digits", headers=served.admin)


def test_who_has_no_key_is_turned_away_before_the_message(served: Served, client: Any) -> None:
    large = triton.InferInput("input", [400, 784], "FP32")
    large.set_data_from_numpy(np.zeros((400, 784), np.float32))
    for headers in ({}, {"authorization": "Bearer none"}, {**served.caller, "x-api-key": "other"}):
        for given in (tensors(), [large]):
            with pytest.raises(triton.InferenceServerException) as caught:
                client.infer("digits", given, headers=headers)
            assert "UNAUTHENTICATED" in caught.value.status()
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("digits", [large], headers=served.caller)
    assert "RESOURCE_EXHAUSTED" in caught.value.status()
    with pytest.raises(triton.InferenceServerException):
        client.get_server_metadata(headers={"authorization": "Bearer " + "x" * 40_000})
    assert client.is_server_live()


@pytest.mark.parametrize(
    ("model", "rows", "code", "told"),
    [("nothing", 1, "NOT_FOUND", "no model"), ("digits", 0, "INVALID_ARGUMENT", "shape")],
)
def test_errors_have_grpcs_codes(
    served: Served, client: Any, model: str, rows: int, code: str, told: str
) -> None:
    given = triton.InferInput("input", [rows, 784], "FP32")
    given.set_data_from_numpy(np.zeros((rows, 784), np.float32))
    with pytest.raises(triton.InferenceServerException, match=told) as caught:
        client.infer(model, [given], headers=served.caller)
    assert code in caught.value.status()


def test_limits_hold_here_too(served: Served, client: Any) -> None:
    with httpx.Client(base_url=served.running.url, headers=served.admin) as admin:
        key = admin.post("/api/keys", json={"name": "bounded"}).json()
        path = f"/api/keys/{key['record']['id']}/limits"
        admin.put(path, json={"requests_per_minute": 1}).raise_for_status()
        headers = {"authorization": f"Bearer {key['key']}"}
        client.infer("digits", tensors(), headers=headers)
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("digits", tensors(), headers=headers)
        assert "RESOURCE_EXHAUSTED" in caught.value.status()
        told = admin.get("/metrics").text
    assert 'route="grpc ModelInfer",status="429"' in told
