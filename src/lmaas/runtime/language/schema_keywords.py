"""Keywords of JSON schemas: which there are, what types they are about, and their values.

Source: JSON Schema, drafts 4, 7 and 2020-12; `nullable` and `discriminator` are OpenAPI's.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from lmaas.runtime.language.number_grammar import Bound
from lmaas.runtime.language.pattern_grammar import Unfit

FARTHEST: Final = Decimal("1.8e308")
"""No number that JSON's readers have in 64 bits is larger."""
LARGEST: Final = 10**18
"""Bounds beyond it bound nothing: no number has so many digits here."""
TOLD: Final = frozenset({
    "title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
    "$schema", "$id", "$comment", "$defs", "definitions", "contentMediaType", "contentEncoding",
    "discriminator", "nullable",
})  # fmt: skip
"""Keywords that say something and bound nothing."""
KEYWORDS: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset({
        "properties", "required", "additionalProperties", "patternProperties", "propertyNames",
        "minProperties", "maxProperties", "unevaluatedProperties",
    }),
    "array": frozenset({
        "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems",
        "unevaluatedItems",
    }),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    }),
    "integer": frozenset({
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    }),
    "boolean": frozenset(),
    "null": frozenset(),
}  # fmt: skip
_YEAR: Final = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-" \
    "(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"  # fmt: skip
_TIME: Final = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_BYTE: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL}){{0,4}}"
FORMATS: Final = {
    "date": f"^{_YEAR}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_YEAR}T{_TIME}$",
    "duration": "^P(?:[0-9]{1,9}W|[0-9]{1,9}D(?:T[0-9]{1,9}H[0-9]{1,9}M[0-9]{1,9}S)?"
    "|T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S))$",
    "email": rf"^[A-Za-z0-9_+-]{{1,32}}(?:\.[A-Za-z0-9_+-]{{1,32}}){{0,2}}@{_HOST}$",
    "hostname": f"^{_HOST}$",
    "ipv4": rf"^{_BYTE}(?:\.{_BYTE}){{3}}$",
    "uuid": "^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    "uri": rf"^https?://{_HOST}(?:/[A-Za-z0-9._~-]{{0,64}}){{0,8}}$",
}
"""Formats of strings, as patterns of texts that have them; days 29 of February are left out."""


def types_of(schema: dict[str, Any], place: str) -> list[str] | None:
    """The types that a schema names, or else those that its keywords are about; None: any."""
    given = schema.get("type")
    if given is None:
        kinds = [kind for kind in KEYWORDS if KEYWORDS[kind] & schema.keys() and kind != "integer"]
        return kinds or None
    types = given if isinstance(given, list) else [given]
    for kind in types:
        if not isinstance(kind, str) or kind not in KEYWORDS:
            raise Unfit(f"{place}.type {str(kind)[:60]!r} is none; expected {', '.join(KEYWORDS)}")
    if not types:
        raise Unfit(f"{place}.type names no type")
    if schema.get("nullable") is True and "null" not in types:
        types = [*types, "null"]
    return list(dict.fromkeys(types))


def repeats_type(schema: dict[str, Any], keyword: str) -> bool:
    """Whether the type beside `anyOf` is what each of its schemas says itself."""
    inner = schema[keyword]
    return isinstance(inner, list) and all(
        isinstance(one, dict) and one.get("type") == schema.get("type") for one in inner
    )


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type."""
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "number" or value == int(value)


def is_bounded(schema: dict[str, Any], kind: str) -> bool:
    """Whether a schema says anything of values of a type beside that they are of it."""
    return bool(KEYWORDS[kind] & schema.keys())


def span(schema: dict[str, Any], of: str, place: str) -> tuple[int, int | None]:
    """`minX` and `maxX`."""
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    for number in (least, 0 if most is None else most):
        whole = isinstance(number, int | float) and not isinstance(number, bool)
        if not whole or number < 0 or number != int(number):
            raise Unfit(f"{place}: min{of} and max{of} must be whole numbers from 0 on")
    if most is not None and least > most:
        raise Unfit(f"{place} accepts no value: min{of} is above max{of}")
    return int(least), None if most is None else int(most)


def bound(schema: dict[str, Any], which: str, place: str) -> Bound | None:
    """The tighter of a bound and its exclusive form; which: "inimum" or "aximum"."""
    sign = 1 if which == "inimum" else -1
    plain, strict = schema.get(f"m{which}"), schema.get(f"exclusiveM{which}")
    is_open = strict is True  # as draft 4 has it
    if isinstance(strict, bool):
        strict = None
    found: list[Bound] = []
    for value, opened in ((plain, is_open), (strict, True)):
        if value is None:
            continue
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if not number or (isinstance(value, float) and math.isinf(value)):
            raise Unfit(f"{place}: a bound of a number must be a number")
        # A whole number may have more digits than a float, and than `repr` writes.
        found.append(Bound(Decimal(value if isinstance(value, int) else repr(value)), opened))
    if not found:
        return None
    tight = max(found, key=lambda bound: (sign * bound.value, bound.open))
    if sign * tight.value > FARTHEST:
        raise Unfit(f"{place}: the bound m{which} lies beyond all numbers of 64 bits")
    return None if sign * tight.value < -LARGEST else tight
