"""JSON schemas as grammars: whatever the grammar lets through fits the schema, and is JSON.

Properties come in the schema's order, others only where `additionalProperties` says so or no
property is named. What cannot be kept (`not`, `if`, `uniqueItems`, …) is refused by name. Source of
the keywords' meaning: JSON Schema, drafts 7 and 2020-12; of the notation: XGrammar's EBNF.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from lmaas.runtime.language.calls import CALL, END_CALL, SEPARATOR
from lmaas.runtime.language.ebnf import COMMON, either, literal, no_such_key
from lmaas.runtime.language.number_grammar import integers, numbers
from lmaas.runtime.language.pattern_grammar import Unfit, pattern
from lmaas.runtime.language.schema_keywords import (
    FORMATS,
    KEYWORDS,
    TOLD,
    bound,
    is_bounded,
    is_of,
    repeats_type,
    span,
    types_of,
)

SPACED: Final = {"ws": r"[ \n]{0,16}", "comma": 'ws "," ws', "colon": 'ws ":" ws'}
COMPACT: Final = {"ws": '""', "comma": '", "', "colon": '": "'}
"""Calls are written as chat templates write them."""


def grammar(schema: Any) -> str:
    """The rules of the texts that fit `schema`; the first is `root`. Raises Unfit.

    Up to 16 blanks and line ends may stand where JSON has them.
    """
    rules: dict[str, str] = {}
    return _text(_Writer(schema, rules).root(), rules, SPACED)


def call_grammar(name: str, parameters: Any) -> str:
    """The rules of what stands inside a call of the tool `name`; its arguments fit `parameters`.

    Raises Unfit.
    """
    rules: dict[str, str] = {}
    return _text(_call(name, parameters, rules), rules, COMPACT)


def calls_grammar(tools: Sequence[tuple[str, Any]], *, parallel: bool) -> str:
    """The rules of texts that call some of `tools` (name, parameters), or just one of them, and
    say nothing else. Raises Unfit.
    """
    rules: dict[str, str] = {}
    inside = either(_call(name, parameters, rules) for name, parameters in tools)
    rules["call"] = f"{literal(CALL + SEPARATOR)} {inside} {literal(SEPARATOR + END_CALL)}"
    more = f"({literal(SEPARATOR)} call)*" if parallel else ""
    return _text(f"call {more}", rules, COMPACT)


def _call(name: str, parameters: Any, rules: dict[str, str]) -> str:
    begin = literal(f'{{"name": {json.dumps(name)}, "arguments": ')
    value = _Writer(parameters or {"type": "object"}, rules).root()
    return f'({begin} {value} "}}")'


def _text(root: str, rules: Mapping[str, str], spaces: Mapping[str, str]) -> str:
    """All rules as XGrammar reads them."""
    all_ = {"root": root, **rules, **COMMON, **spaces}
    return "".join(f"{name} ::= {body}\n" for name, body in all_.items())


MAX_HOPS: Final = 16
"""So many references are followed to see how schemas differ."""


class _Writer:
    """Adds the rules of one schema to `rules`, which several may share."""

    def __init__(self, schema: Any, rules: dict[str, str]) -> None:
        self._schema = schema
        self._rules = rules
        self._names: dict[str, str] = {}

    def root(self) -> str:
        """The grammar of the schema's values."""
        return self._value(self._schema, "the schema", frozenset())

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _value(self, schema: Any, place: str, open_: frozenset[str]) -> str:
        """The grammar of one value. `open_`: references that led here with nothing in between."""
        if schema is True:
            return "json"
        if schema is False:
            raise Unfit(f"{place} accepts no value")
        if not isinstance(schema, dict):
            raise Unfit(f"{place} must be an object or a boolean")
        for keyword in ("$ref", "anyOf", "oneOf", "allOf", "enum", "const"):
            if keyword in schema:
                return self._by(keyword, schema, place, open_)
        types = types_of(schema, place)
        known = frozenset().union(*(KEYWORDS[kind] for kind in types or KEYWORDS))
        self._refuse_others(schema, known | {"type"}, place)
        if types is None:
            return "json"
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        return either(self._typed(kind, schema, place) for kind in types)

    def _by(self, keyword: str, schema: dict[str, Any], place: str, open_: frozenset[str]) -> str:
        """A schema that is said by other schemas or by its values."""
        beside = {"type"} if keyword in ("enum", "const") else set()
        if keyword in ("anyOf", "oneOf"):
            beside = {"type"} if repeats_type(schema, keyword) else set()
        self._refuse_others(schema, {keyword} | beside, place)
        given = schema[keyword]
        if keyword == "$ref":
            return self._reference(given, place, open_)
        if keyword in ("enum", "const"):
            return self._values(given if keyword == "enum" else [given], schema, place)
        if not isinstance(given, list) or not given:
            raise Unfit(f"{place}.{keyword} must be a list of schemas")
        if keyword == "allOf" and len(given) > 1:
            raise Unfit(f"{place}.allOf of several schemas cannot be kept")
        if keyword == "oneOf" and not self._differ(given):
            raise Unfit(
                f"{place}.oneOf cannot be kept where its schemas may overlap; use anyOf, or give "
                "each a property with a const of its own"
            )
        return either(
            self._value(one, f"{place}.{keyword}[{index}]", open_)
            for index, one in enumerate(given)
        )

    def _refuse_others(self, schema: dict[str, Any], known: Iterable[str], place: str) -> None:
        for name in schema:
            if name not in TOLD and name not in known:
                raise Unfit(f"{place}: {name[:60]!r} cannot be kept here")

    # References

    def _reference(self, pointer: Any, place: str, open_: frozenset[str]) -> str:
        if not isinstance(pointer, str) or (pointer != "#" and not pointer.startswith("#/")):
            raise Unfit(f"{place}.$ref {str(pointer)[:80]!r} leads out of the schema")
        if pointer in open_:
            raise Unfit(f"{place}.$ref {pointer[:80]!r} leads to itself, nothing in between")
        if pointer not in self._names:
            name = self._names[pointer] = self._rule("")
            self._rules[name] = self._value(self._find(pointer), pointer, open_ | {pointer})
        return self._names[pointer]

    def _find(self, pointer: str) -> Any:
        found = self._schema
        for part in pointer.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise Unfit(f"$ref {pointer[:80]!r} leads nowhere")
        return found

    # Values

    def _values(self, values: Any, schema: dict[str, Any], place: str) -> str:
        if not isinstance(values, list):
            raise Unfit(f"{place}.enum must be a list")
        types = types_of(schema, place) if "type" in schema else None
        fitting = [v for v in values if types is None or any(is_of(v, kind) for kind in types)]
        if not fitting:
            raise Unfit(f"{place} accepts no value")
        return either(literal(json.dumps(value, ensure_ascii=False)) for value in fitting)

    def _differ(self, schemas: list[Any]) -> bool:
        """Whether no value fits two of the schemas, as far as is seen easily."""
        marks = [self._marks(schema) for schema in schemas]
        return all(
            any(not one[key] & other[key] for key in one.keys() & other.keys())
            for index, one in enumerate(marks)
            for other in marks[:index]
        )

    def _marks(self, schema: Any, depth: int = 0) -> dict[str, set[str]]:
        """What tells values of a schema from others: their type, and their fixed properties."""
        if isinstance(schema, dict) and "$ref" in schema and depth < MAX_HOPS:
            pointer = str(schema["$ref"])
            return self._marks(self._find(pointer), depth + 1) if pointer[:1] == "#" else {}
        if not isinstance(schema, dict):
            return {}
        if "const" in schema or isinstance(schema.get("enum"), list):
            values = schema.get("enum", [schema.get("const")])
            types = {kind for value in values for kind in KEYWORDS if is_of(value, kind)}
            return {"": types, "=": {json.dumps(value, sort_keys=True) for value in values}}
        if "type" not in schema:
            return {}
        types = set(types_of(schema, "oneOf") or ())
        if "number" in types:
            types.add("integer")
        found = {"": types}
        if types == {"object"} and isinstance(schema.get("properties"), dict):
            for name in schema.get("required") or ():
                mark = self._marks(schema["properties"].get(name), depth + 1)
                if "=" in mark:
                    found[f".{name}"] = mark["="]
        return found

    # Types

    def _typed(self, kind: str, schema: dict[str, Any], place: str) -> str:
        match kind:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return (
                    f'"\\"" {self._inside(schema, place)} "\\""'
                    if is_bounded(schema, "string")
                    else "string"
                )
            case "boolean":
                return '("true" | "false")'
            case "null":
                return '"null"'
        low, high = bound(schema, "inimum", place), bound(schema, "aximum", place)
        step = schema.get("multipleOf", 1 if kind == "integer" else None)
        if step not in (None, 1):
            raise Unfit(f"{place}.multipleOf cannot be kept")
        found = numbers(low, high) if step is None else integers(low, high)
        if found is None:
            raise Unfit(f"{place} accepts no value")
        return found

    def _inside(self, schema: dict[str, Any], place: str) -> str:
        """A string without its quotes."""
        least, most = span(schema, "Length", place)
        by = [name for name in ("pattern", "format") if name in schema]
        if not by:
            return _repeated("char", least, most)
        if len(by) > 1 or least or most is not None:
            raise Unfit(f"{place}: pattern, format and a length cannot be kept together")
        text = schema[by[0]]
        if by == ["format"]:
            if not isinstance(text, str) or text not in FORMATS:
                known = ", ".join(FORMATS)
                raise Unfit(f"{place}.format {str(text)[:60]!r} cannot be kept; {known} can")
            return pattern(FORMATS[text])
        if not isinstance(text, str):
            raise Unfit(f"{place}.pattern must be a text")
        return pattern(text)

    def _array(self, schema: dict[str, Any], place: str) -> str:
        least, most = span(schema, "Items", place)
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems", True)
        if not isinstance(first, list):
            raise Unfit(f"{place}.prefixItems must be a list")
        if schema.get("uniqueItems") and (most is None or most > 1):
            raise Unfit(f"{place}.uniqueItems cannot be kept")
        if schema.get("unevaluatedItems") not in (None, True):
            rest = schema["unevaluatedItems"] if "items" not in schema else rest
        if rest is False:
            most = len(first) if most is None else min(most, len(first))
        if most is not None and least > most:
            raise Unfit(f"{place} accepts no list: it needs {least} items and takes {most}")
        body = self._items(first[:most], rest, least, most, place)
        return f'"[" ws {body} ws "]"' if body else '"[" ws "]"'

    def _items(self, first: list[Any], rest: Any, least: int, most: int | None, place: str) -> str:
        """The items, from the last to the first: each with what may come after it."""
        after = ""
        count = len(first)
        if most is None or most > count:
            item = self._rule(self._value(rest, f"{place}.items", frozenset()))
            more = None if most is None else most - count
            needed = max(0, least - count)
            if not count:
                left = None if more is None else more - 1
                one = f"{item} {_repeated(f'(comma {item})', max(0, needed - 1), left)}"
                return one if needed else f"({one})?"
            after = _repeated(f"(comma {item})", needed, more)
        for index in reversed(range(count)):
            item = self._value(first[index], f"{place}.prefixItems[{index}]", frozenset())
            one = f"{'comma ' if index else ''}{item} {after}"
            after = self._rule(one) if index < least else f"({self._rule(one)})?"
        return after

    # Objects

    def _object(self, schema: dict[str, Any], place: str) -> str:
        named, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(named, dict) or not isinstance(required, list):
            raise Unfit(f"{place}: properties must be an object, required a list")
        least, most = span(schema, "Properties", place)
        other = self._other(schema, place)
        extra = [name for name in dict.fromkeys(required) if name not in named]
        if extra:
            value = schema.get("additionalProperties", True)
            if value is False or not all(isinstance(name, str) for name in extra):
                raise Unfit(f"{place} requires {str(extra[0])[:60]!r}, which it does not allow")
            named = named | dict.fromkeys(extra, value)
        if not named:
            return self._map(other, least, most)
        needed = {name for name in named if name in required}
        if least > len(needed) or (most is not None and (other or most < len(named))):
            raise Unfit(f"{place}: minProperties and maxProperties cannot be kept here")
        return self._record(named, needed, other, place)

    def _record(
        self, named: dict[str, Any], needed: set[str], other: str | None, place: str
    ) -> str:
        """Named properties in order, each with what may come after it, then the others."""
        if other:
            # Texts of the pair: a key that is none of the names, and any value of the others.
            key, _, value = other.partition(" colon ")
            if key != "string":
                raise Unfit(f"{place}: named properties and patterns cannot be kept together")
            other = f'"\\"" {no_such_key(named)} "\\"" colon {value}'
        after = f"(comma {self._rule(other)})*" if other else ""
        first = f"{self._rule(other)} {after}" if other else ""
        first_is_optional = True
        for name, schema in reversed(named.items()):
            if schema is False and name not in needed:
                continue
            key = literal(json.dumps(name, ensure_ascii=False))
            value = self._value(schema, f"{place}.{name}", frozenset())
            pair = self._rule(f"{key} colon {value}")
            if name in needed:
                first, first_is_optional = f"{pair} {after}", False
                after = f"comma {first}"
            else:
                first = f"({pair} {after} | {first})" if first else f"{pair} {after}"
                after = f"(comma {pair})? {after}"
            first, after = self._rule(first), self._rule(after)
        body = f"({first})?" if first_is_optional and first else first
        return f'"{{" ws {body} ws "}}"' if body else '"{" ws "}"'

    def _map(self, other: str | None, least: int, most: int | None) -> str:
        """An object without named properties."""
        if other is None or most == 0:
            if least:
                raise Unfit("an object needs properties that it does not allow")
            return '"{" ws "}"'
        if most is not None and least > most:
            raise Unfit("an object needs more properties than it takes")
        pair = self._rule(other)
        left = None if most is None else most - 1
        body = f"{pair} {_repeated(f'(comma {pair})', max(0, least - 1), left)}"
        return f'"{{" ws {body if least else f"({body})?"} ws "}}"'

    def _other(self, schema: dict[str, Any], place: str) -> str | None:
        """A pair of a key that is not named and its value; None where there may be none."""
        default = not schema.get("properties") and "patternProperties" not in schema
        value = schema.get("additionalProperties", schema.get("unevaluatedProperties", default))
        patterns = schema.get("patternProperties", {})
        if not isinstance(patterns, dict):
            raise Unfit(f"{place}.patternProperties must be an object")
        if patterns:
            if value is not False or len(patterns) > 1 or "propertyNames" in schema:
                raise Unfit(f"{place}: only one pattern, and nothing beside it, can be kept")
            ((text, inner),) = patterns.items()
            value = self._value(inner, f"{place}.patternProperties", frozenset())
            return f'"\\"" {pattern(text)} "\\"" colon {value}'
        if value is False:
            return None
        names = schema.get("propertyNames", True)
        key = "string"
        if names is not True:
            if not isinstance(names, dict):
                raise Unfit(f"{place}.propertyNames must be a schema")
            kind = "type" if not {"enum", "const", "$ref"} & names.keys() else None
            full = {**names, "type": "string"} if kind else names
            key = f"({self._value(full, f'{place}.propertyNames', frozenset())})"
        return f"{key} colon {self._value(value, f'{place}.additionalProperties', frozenset())}"


def _repeated(item: str, least: int, most: int | None) -> str:
    if most is not None and most <= 0:
        return '""'
    if most is None:
        return f"{item}*" if not least else f"{item}{{{least},}}"
    return f"{item}{{{least},{most}}}"
