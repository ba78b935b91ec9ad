"""Every route: closed without a key, described, and answering in its protocol's shape."""

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import msgspec
import pytest

from lmaas.http.doors import door_of
from lmaas.http.openapi import COMPONENT
from lmaas.http.route import Access, Route
from lmaas.http.routes import ROUTES
from lmaas.training.schema import recipe_parts, recipe_schema
from servers import Running, png

OPERATIONS = [(method, route.path) for route in ROUTES for method in route.operations]
OPEN = {route.path for route in ROUTES if route.access == "open"}
ADMIN = {route.path for route in ROUTES if route.access == "admin"}


def test_who_may_ask_what() -> None:
    """Each route says it; what is asked of none, and what callers may, is listed here again."""
    assert {route.access for route in ROUTES} == set(get_args(Access))
    assert {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"} == OPEN
    below_api = {route.path for route in ROUTES if route.path.startswith("/api/")}
    compreface = {path for path in below_api if door_of(path) == "compreface"}
    assert not compreface & ADMIN
    assert below_api - ADMIN - compreface == {
        f"/api/{name}"
        for name in ("chat", "embed", "embeddings", "generate", "ps", "show", "tags", "version")
    }
    others = {path for path in ADMIN - below_api if not path.startswith("/v2/repository/models/")}
    parts = ("files", "uploads", "fine_tuning")
    assert {path.split("/")[2] for path in others - {"/metrics"}} == set(parts)
    assert all(path.startswith("/v1/") for path in others - {"/metrics"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nope", 404),
        ("/v1/nope", 404),
        ("/v2/nope", 404),
        ("/v2/repository/nope", 404),
        ("/models/a/b/c/d", 404),
        ("/api", 404),
        ("/api/", 403),
        ("/api/nope", 403),
        ("/api/chat/nope", 403),
        ("/v1/files/a/b/c", 403),
        ("/v1/uploads/a/b/c", 403),
        ("/v1/fine_tuning/nope", 403),
        ("/v2/repository/models/x/nope", 403),
        ("/metrics/nope", 403),
    ],
)
def test_a_path_that_is_no_route_asks_for_a_key_first(
    server: Running, path: str, status: int
) -> None:
    assert httpx.get(server.url + path).status_code == 401
    assert httpx.get(server.url + path, headers=server.caller).status_code == status
    assert httpx.get(server.url + path, headers=server.admin).status_code == 404
    assert httpx.get(server.url + path, headers={"host": "evil.example"}).status_code == 403


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
    if path in ADMIN:
        response = httpx.request(method, server.url + filled(path), headers=server.caller)
        assert response.status_code == 403


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_other_methods_are_named(server: Running, route: Route) -> None:
    response = httpx.patch(server.url + filled(route.path), headers=server.admin)
    assert response.status_code == 405
    assert response.headers["allow"] == ", ".join(route.operations)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_query_parameters_of_stock_clients_change_nothing(
    server: Running, method: str, path: str
) -> None:
    """Clients send `beta=true`, `api-version`, `limit` of their own."""
    url = server.url + filled(path)
    plain = httpx.request(method, url, headers=server.admin)
    more = httpx.request(method, f"{url}?beta=true&api-version=1&x", headers=server.admin)
    assert more.status_code == plain.status_code != 500
    assert more.headers["content-type"] == plain.headers["content-type"]


STOCK: set[type] = {
    kind
    for route in ROUTES
    if not route.path.startswith("/api/")
    for operation in route.operations.values()
    for kind in operation.body
    if not isinstance(kind, str)
}


def optional_fields(kind: Any, known: set[type]) -> Iterator[tuple[str, Any]]:
    """Each optional field of a type and of the types in it, with its type."""
    if isinstance(kind, msgspec.inspect.StructType):
        if kind.cls in known:
            return
        known.add(kind.cls)
        for field in kind.fields:
            if not field.required:
                yield f"{kind.cls.__name__}.{field.encode_name}", field.type
            yield from optional_fields(field.type, known)
    for name in ("types", "item_type", "item_types"):
        inner = getattr(kind, name, ())
        for each in inner if isinstance(inner, tuple) else (inner,):
            yield from optional_fields(each, known)


@pytest.mark.parametrize("kind", sorted(STOCK, key=repr), ids=lambda kind: kind.__name__)
def test_null_in_an_optional_field_is_as_if_it_were_left_out(kind: type) -> None:
    for name, given in optional_fields(msgspec.inspect.type_info(kind), set()):
        types = given.types if isinstance(given, msgspec.inspect.UnionType) else (given,)
        takes = any(
            isinstance(each, msgspec.inspect.NoneType | msgspec.inspect.AnyType) for each in types
        )
        assert takes or name == "FineTuningBody.recipe", name


def told_by(door: str, response: httpx.Response) -> str:
    """What a refusal says, read as the door's own clients read it."""
    body = response.json()
    match door:
        case "openai":
            assert body["error"].keys() == {"message", "type", "param", "code"}
            assert body["error"]["type"] in (
                "invalid_request_error", "not_found_error", "authentication_error",
            )  # fmt: skip
            return str(body["error"]["message"])
        case "anthropic":
            assert (body["type"], body["request_id"]) == ("error", response.headers["x-request-id"])
            assert body["error"]["type"] in (
                "invalid_request_error", "not_found_error", "authentication_error",
            )  # fmt: skip
            assert body["error"]["details"]["error_code"]
            return str(body["error"]["message"])
        case "huggingface":
            assert body["error_type"] == "validation"
            return str(body["error"])
        case "compreface":
            assert body.keys() == {"message", "code", "error_code"}
            assert isinstance(body["code"], int)
            return str(body["message"])
        case "own":
            assert body["status"] == response.status_code
            return str(body["detail"]) + " " + str(body["hint"])
    assert body.keys() == {"error"}
    return str(body["error"])


@pytest.mark.parametrize(
    ("path", "door", "hint"),
    [
        ("/v1/chat/completion", "openai", "/v1/chat/completions"),
        ("/chat/completions", "openai", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "openai", "/v1/chat/completions"),
        ("/v1/audio/voices", "openai", "base_url"),
        ("/v1/v1/messages", "openai", "/v1/messages"),
        ("/v1/messages/batches", "anthropic", "base_url"),
        ("/models/digits/classify", "huggingface", "/models/NAME"),
        ("/v2/models/digits/trace/setting", "oip", "/v2/models/NAME/infer"),
        ("/v2/systemsharedmemory/status", "oip", "/v2/models/NAME/infer"),
        ("/api/create", "ollama", "lmaas"),
        ("/api/blobs/sha256:12", "ollama", "lmaas"),
        ("/api/model", "own", "/api/models"),
        ("/api/none", "own", "/openapi.json"),
    ],
)
def test_a_path_that_is_none_is_answered_by_its_door(
    server: Running, path: str, door: str, hint: str
) -> None:
    response = httpx.get(server.url + path, headers=server.admin)
    assert response.status_code == 404
    told = told_by(door, response)
    assert "no such route" in told
    assert hint in told
    assert hint in told_by(door, response)


def test_anthropics_clients_are_known_by_their_header(server: Running) -> None:
    headers = {"x-api-key": server.call_key, "anthropic-version": "2023-06-01"}
    for path in ("/v1/models/none", "/v1/skills"):
        response = httpx.get(server.url + path, headers=headers)
        assert response.status_code == 404
        told_by("anthropic", response)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_refusal_has_the_shape_of_its_door(server: Running, route: Route) -> None:
    door = door_of(route.path)
    if route.path not in OPEN:
        closed = httpx.patch(server.url + filled(route.path))
        assert closed.status_code == 401
        told_by(door, closed)
    method = httpx.patch(server.url + filled(route.path), headers=server.admin)
    assert "takes" in told_by(door, method)
    for name, operation in route.operations.items():
        # What has a body of its own type refuses a field that it does not know, by its name.
        if any(not isinstance(kind, str) for kind in operation.body) and "{" not in route.path:
            headers = {**server.admin, "content-type": "application/json"}
            refused = httpx.request(
                name, server.url + route.path, content=b'{"colour": 1}', headers=headers
            )
            assert refused.status_code == 400, (name, refused.text)
            told = told_by(door, refused)
            assert "colour" in told or "missing" in told


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
