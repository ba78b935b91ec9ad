"""How far the references of a JSON schema may lead: whoever reads a schema recurses over them."""

from collections.abc import Callable
from typing import Any

import pytest

from lmaas.errors import InvalidInput
from lmaas.generation_types import MAX_SCHEMA_DEPTH, ChatMessage, Format, GenerateRequest, check

Wrap = Callable[[dict[str, Any]], dict[str, Any]]
WRAPS: dict[str, Wrap] = {
    "plain": lambda inner: inner,
    "object": lambda inner: {"type": "object", "properties": {"a": inner}, "required": ["a"]},
    "array": lambda inner: {"type": "array", "items": inner},
    "any": lambda inner: {"anyOf": [{"type": "null"}, inner]},
    "all": lambda inner: {"allOf": [inner]},
}


def chain(length: int, wrap: Wrap, *, shortcuts: bool = False) -> dict[str, Any]:
    """Definitions that refer to the next; with `shortcuts`, the first one to all of them."""
    defs = {f"d{n}": wrap({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    defs[f"d{length}"] = {"type": "integer"}
    first: dict[str, Any] = {"$ref": "#/$defs/d0"}
    if shortcuts:
        first = {"anyOf": [{"$ref": f"#/$defs/d{n}"} for n in range(length, -1, -1)]}
    return {"$defs": defs, **first}


def ask(schema: dict[str, Any]) -> None:
    check(
        GenerateRequest(
            messages=(ChatMessage(role="user", content="a"),),
            format=Format(kind="json_schema", schema=schema),
        )
    )


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_chain_of_references_is_bounded(wrap: str, shortcuts: bool) -> None:
    ask(chain(MAX_SCHEMA_DEPTH - 1, WRAPS[wrap], shortcuts=shortcuts))
    with pytest.raises(InvalidInput, match="references"):
        ask(chain(MAX_SCHEMA_DEPTH + 2, WRAPS[wrap]))


def test_a_schema_that_refers_to_itself_is_no_chain() -> None:
    tree = {"type": "array", "items": {"$ref": "#/$defs/tree"}}
    ask({"$defs": {"tree": tree}, "$ref": "#/$defs/tree"})
    ask({"type": "object", "properties": {"child": {"$ref": "#"}}})
