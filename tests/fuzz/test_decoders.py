"""Whatever bytes come, each decoder, grammar and template gives a result, or refuses, in time."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.effort import effort
from fuzz.samples import SAMPLES, WORDS
from fuzz.targets import TARGETS, Target, checked

Draw = st.DrawFn


@st.composite
def mutated(draw: Draw, samples: list[bytes]) -> bytes:
    """A good input of which parts are changed, cut, doubled or taken from another one."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 16)))
        other = draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(WORDS),
                st.sampled_from(samples),
                st.just(data[start:end] * 2),
            )
        )
        data = data[:start] + other + data[end:]
    return data


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    ["type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems",
     "maxItems", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions",
     "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern",
     "format", "minLength", "maxLength", "minProperties", "maxProperties", "patternProperties",
     "title", "description", "default", "not",
     "if", "uniqueItems", "propertyNames", "nullable", "$schema"]
)  # fmt: skip
LEAVES = st.one_of(
    st.sampled_from(
        ["object", "array", "string", "number", "integer", "boolean", "null", "a", "#", "#/$defs/a",
         "#/properties/a", "#/a~1b", "^a+$", "[", "date", "uuid", "é1", "\u2028", True, False]
    ),
    st.none(), st.integers(-30, 30), st.integers(), st.floats(),
)  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner),
    max_leaves=20,
).map(lambda value: value if isinstance(value, dict) else {"anyOf": [value]})
PATTERNS = st.recursive(
    st.sampled_from(
        ["a", ".", "^", "$", "\\d", "\\W", "\\b", "[a-z]", "[^\\s\"]", "[]", "[z-a]", "\\u{1F600}",
         "\\uD83D", "\\x4", "\\1", "é", "\\", '"', "\n", "[", ")", "{", "-", "\\p{L}"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,}", "{3,1}", "{9999}", "*?"]))
        .map("".join),
    ),
    max_leaves=12,
)  # fmt: skip
NUMBERS = st.integers().map(str) | st.floats().map(str) | st.just("")


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


SHAPED: dict[str, st.SearchStrategy[bytes]] = {
    "json": VALUES.map(lambda value: encoded({"inputs": value})),
    "pixels": st.lists(st.lists(st.integers(-1, 256) | st.floats(), max_size=4), max_size=4).map(
        lambda value: encoded({"inputs": value})
    ),
    "schema": SCHEMAS.map(encoded),
    "pattern": PATTERNS.map(str.encode),
    "numbers": st.tuples(NUMBERS, NUMBERS).map(lambda ends: " ".join(ends).encode()),
    "answer": st.tuples(
        st.integers(0, 15),
        st.lists(
            st.sampled_from(
                ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", '{"name": "f", ',
                 '"arguments": {}}', '"arguments": {"a": "\\"}</tool_call>"}', "E", "ND", "<", "a"]
            )
        ),
    ).map(lambda told: bytes([told[0]]) + "".join(told[1]).encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_read_or_refused(name: str) -> None:
    look(TARGETS[name], mutated(SAMPLES[name]) | st.binary(max_size=200), 25)


@pytest.mark.parametrize("name", SHAPED)
def test_what_has_the_right_shape_is_read_or_refused(name: str) -> None:
    look(TARGETS[name], SHAPED[name], 40)


def test_each_target_reads_its_samples() -> None:
    assert TARGETS.keys() == SAMPLES.keys()
    for name, samples in SAMPLES.items():
        for sample in samples:
            checked(TARGETS[name], sample)


def look(target: Target, inputs: st.SearchStrategy[bytes], short: int) -> None:
    @effort(short)
    @given(inputs)
    def run(data: bytes) -> None:
        checked(target, data)

    run()
