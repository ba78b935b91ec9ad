"""Every route: closed without a key, described, and answering in its protocol's shape."""

import json
import re
import zlib

import httpx
import msgspec
import pytest

from lmaas.http.auth import OPEN
from lmaas.http.openapi import COMPONENT
from lmaas.http.route import Route
from lmaas.http.routes import ROUTES
from lmaas.training.schema import recipe_parts, recipe_schema
from servers import Running, png

OPERATIONS = [(method, route.path) for route in ROUTES for method in route.operations]


def filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", "x", path)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_route_but_health_needs_a_key(server: Running, method: str, path: str) -> None:
    response = httpx.request(method, server.url + filled(path))
    assert response.status_code == (200 if path in OPEN else 401)
    if path not in OPEN:
        assert "bearer" in response.headers["www-authenticate"].lower()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_admin_routes_refuse_a_key_that_may_only_call(
    server: Running, method: str, path: str
) -> None:
    if path.startswith(("/api/", "/metrics")):
        response = httpx.request(method, server.url + filled(path), headers=server.caller)
        assert response.status_code == 403


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_other_methods_are_named(server: Running, route: Route) -> None:
    path, operations = route
    response = httpx.patch(server.url + filled(path), headers=server.admin)
    assert response.status_code == 405
    assert response.headers["allow"] == ", ".join(operations)
    assert "error" in response.json() or response.json()["code"] == "method_not_allowed"


def test_unknown_query_parameters_are_refused(server: Running) -> None:
    response = httpx.get(f"{server.url}/v1/models?limti=3", headers=server.caller)
    assert response.status_code == 400
    assert "limti" in response.json()["error"]["message"]


def test_the_description_has_every_route_and_type(server: Running) -> None:
    told = httpx.get(f"{server.url}/openapi.json", headers=server.caller).json()
    assert {(m.upper(), path) for path, ops in told["paths"].items() for m in ops} == set(
        OPERATIONS
    )
    text = json.dumps(told)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in told["components"]["schemas"]
    assert all(op["summary"] for ops in told["paths"].values() for op in ops.values())
    assert told["paths"]["/health/live"]["get"]["security"] == []
    parts = told["components"]["schemas"]
    assert parts["FineTuningBody"]["properties"]["recipe"]["$ref"].endswith("/RecipeKeys")
    assert parts["TrainBody"]["properties"]["recipe"]["$ref"].endswith("/Recipe")
    assert parts["Recipe"]["required"] == ["name", "task", "data"]
    assert "required" not in parts["RecipeKeys"]
    assert parts["RecipeKeys"]["allOf"] == parts["Recipe"]["allOf"]


def test_what_a_recipe_may_say_is_published(server: Running) -> None:
    told = httpx.get(f"{server.url}/api/recipes/schema", headers=server.admin).json()
    assert told == json.loads(json.dumps(recipe_schema()))
    types = [
        kind
        for route in ROUTES
        for operation in route.operations.values()
        for kind in (*operation.body, *operation.answer)
        if not isinstance(kind, str)
    ]
    unique = list({repr(kind): kind for kind in types}.values())
    _, others = msgspec.json.schema_components(unique, ref_template=COMPONENT)
    parts = recipe_parts(COMPONENT)
    # What the recipe's parts are called is no other type's name.
    assert {name for name in parts if others.get(name, parts[name]) != parts[name]} == {
        "Recipe", "Transform",
    }  # fmt: skip


def test_the_page_loads_nothing_and_takes_the_key_as_a_password(server: Running) -> None:
    response = httpx.get(f"{server.url}/docs", auth=("me", server.call_key))
    assert response.status_code == 200
    assert "<script" not in response.text
    assert not re.findall(r"(?:src|href)=['\"]https?:", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "/v2/models/{ref}/infer" in response.text


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([{"name": "input", "shape": [1, 784], "datatype": "INT64", "data": [0] * 784}], "FP32"),
        ([{"name": "input", "shape": [1, 783], "datatype": "FP32", "data": [0.0] * 783}], "784"),
        ([{"name": "input", "shape": [2, 784], "datatype": "FP32", "data": [0.0] * 784}], "1568"),
        ([{"name": "x", "shape": [1, 784], "datatype": "FP32", "data": [0.0] * 784}], "input"),
        ([{"name": "input", "shape": [1, 784], "datatype": "FP99", "data": [0.0] * 784}], "FP32"),
        ([{"name": "input", "shape": [1, -784], "datatype": "FP32", "data": []}], "shape"),
        ([], "input"),
    ],
)
def test_wrong_tensors_say_what_was_expected(server: Running, inputs: object, told: str) -> None:
    url = f"{server.url}/v2/models/digits/infer"
    response = httpx.post(url, json={"inputs": inputs}, headers=server.caller)
    assert response.status_code == 400
    assert told in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"inputs": [' + b"0.5," * 782 + b"0.5]}", "784"),
        (b'{"inputs": [' + b"1e39," * 783 + b"0.5]}", "too large"),
        (b'{"inputs": [' + b"1e999," * 783 + b"0.5]}", "JSON"),
        (b'{"inputs": ["a", "b"]}', "base64"),
        (b'{"inputs": "AAAA"}', "image"),
        (b'{"inputs": [[1.0], [1.0, 2.0]]}', "regular"),
        (b'{"inputs": null}', "inputs"),
        (b'{"input": 1}', "input"),
        (b'{"inputs": "x", "parameters": {"topk": 1}}', "topk"),
        (b'{"inputs"', "JSON"),
        (b"", "JSON"),
    ],
)
def test_wrong_json_says_what_is_wrong(server: Running, body: bytes, told: str) -> None:
    headers = {**server.caller, "content-type": "application/json"}
    response = httpx.post(f"{server.url}/models/digits", content=body, headers=headers)
    assert response.status_code == 400
    assert told in response.json()["error"]


def test_a_png_that_claims_to_be_huge(server: Running) -> None:
    image = bytearray(png())
    image[16:24] = (65_000).to_bytes(4, "big") * 2
    image[29:33] = zlib.crc32(image[12:29]).to_bytes(4, "big")
    response = httpx.post(
        f"{server.url}/models/digits", content=bytes(image), headers=server.caller
    )
    assert response.status_code == 413
    assert "pixels" in response.text


def test_a_compressed_body_is_refused(server: Running) -> None:
    headers = {**server.caller, "content-encoding": "gzip"}
    response = httpx.post(f"{server.url}/models/digits", content=b"x", headers=headers)
    assert response.status_code == 400
    assert "Content-Encoding" in response.text or "Compressed" in response.text


def test_keys_are_made_listed_and_revoked(server: Running) -> None:
    with httpx.Client(base_url=server.url, headers=server.admin) as client:
        made = client.post("/api/keys", json={"name": "new", "scopes": ["call"]})
        assert made.status_code == 201
        headers = {"authorization": f"Bearer {made.json()['key']}"}
        assert httpx.get(f"{server.url}/v1/models", headers=headers).is_success
        listed = client.get("/api/keys")
        assert made.json()["key"] not in listed.text
        assert made.json()["record"] in listed.json()
        assert client.delete(f"/api/keys/{made.json()['record']['id']}").is_success
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401
        assert client.delete("/api/keys/none").status_code == 404
        bad = client.post("/api/keys", json={"name": "new", "scopes": ["root"]})
        assert bad.status_code == 400
