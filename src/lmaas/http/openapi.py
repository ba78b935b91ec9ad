"""OpenAPI 3.1 from the route table and its types, and a page that shows it: no script, no CDN."""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from typing import Any

import msgspec

import lmaas
from lmaas.http.route import Operation, Route
from lmaas.job import Job
from lmaas.training.schema import recipe_keys, recipe_parts

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { background: #8881; padding: .8rem; overflow: auto; }
summary { cursor: pointer; padding: .3rem 0; } summary b { display: inline-block; width: 5rem; }
h2 { margin-top: 2rem; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
SWITCHES = 101
COMPONENT = "#/components/schemas/{name}"
PAGE_HEADERS = [
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'none'".encode(),
    )
]


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of `routes`; a recipe's free parts are told in full."""
    types = [
        kind
        for route in routes
        for operation in route.operations.values()
        for kind in (*operation.body, *operation.answer, *(Job,) * operation.queues)
        if not isinstance(kind, str)
    ]
    unique = list({repr(kind): kind for kind in types}.values())
    schemas, components = msgspec.json.schema_components(unique, ref_template=COMPONENT)
    parts = recipe_parts(COMPONENT)
    components |= parts | recipe_keys(parts, COMPONENT)
    schema_of = {repr(kind): schema for kind, schema in zip(unique, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for route in routes:
        for method, operation in route.operations.items():
            told = _operation(route, method, operation, schema_of)
            paths.setdefault(route.path, {})[method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "LMaaS", "version": lmaas.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(
    route: Route, method: str, operation: Operation, schema_of: dict[str, Any]
) -> dict[str, Any]:
    path = route.path
    names = [(name, "path") for name in re.findall(r"\{(\w+)\}", path)]
    names += [(name, "query") for name in operation.query]
    names += [("wait", "query")] * operation.queues
    told: dict[str, Any] = {
        "summary": (operation.handler.__doc__ or "").strip(),
        "operationId": f"{method.lower()}{re.sub(r'[^a-z0-9]+', '_', path.lower()).rstrip('_')}",
        "parameters": [
            {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}
            for name, place in names
        ],
        "responses": {
            str(operation.status): {
                "description": "A WebSocket." if operation.status == SWITCHES else "Done.",
                "content": _content(operation.answer, schema_of),
            },
            "default": {"description": "An error, in the shape of the route's protocol."},
        },
    }
    if operation.queues:
        told["responses"]["202"] = {
            "description": "With wait=false: the job, which goes on.",
            "content": _content((Job,), schema_of),
        }
    if operation.body:
        told["requestBody"] = {"required": True, "content": _content(operation.body, schema_of)}
    if route.access == "open":
        told["security"] = []
    else:
        told["description"] = f"Needs a key with the scope {route.access}."
    return told


def _content(kinds: tuple[Any, ...], schema_of: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    schemas = [schema_of[repr(kind)] for kind in kinds if not isinstance(kind, str)]
    if schemas:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content["application/json"] = {"schema": schema}
    return content | {kind: {} for kind in kinds if isinstance(kind, str)}


def page(told: dict[str, Any]) -> bytes:
    """The document for people: every route with its types, nothing loaded from anywhere."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>LMaaS API</title>",
        f"<style>{STYLE}</style><h1>LMaaS {html.escape(told['info']['version'])}</h1>",
        "<p>Every route but health takes a key: <code>Authorization: Bearer sk-lmaas-…</code>. "
        "For programs: <a href='/openapi.json'>/openapi.json</a>.</p><h2>Routes</h2>",
    ]
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            shown = {name: operation[name] for name in ("parameters", "requestBody", "responses")
                     if operation.get(name)}  # fmt: skip
            parts.append(
                f"<details><summary><b>{method.upper()}</b><code>{html.escape(path)}</code> "
                f"{html.escape(operation['summary'])}</summary>"
                f"<p>{html.escape(operation.get('description', 'Needs no key.'))}</p>"
                f"{_json(shown)}</details>"
            )
    parts.append("<h2>Types</h2>")
    for name, schema in told["components"]["schemas"].items():
        parts.append(
            f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code></summary>"
            f"{_json(schema)}</details>"
        )
    return "".join(parts).encode()


def _json(value: Any) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(value)).decode())}</pre>"
