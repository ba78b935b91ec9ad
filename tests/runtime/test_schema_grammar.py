"""What a model without sense writes under a schema fits it; what cannot be kept is refused."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from lmaas.config import Settings
from lmaas.runtime.language import ebnf, grammar_openvino
from lmaas.runtime.language.ebnf import no_such_key
from lmaas.runtime.language.engine import (
    EngineOptions,
    Grammar,
    LanguageEngine,
    TokenSampling,
    make_language_engine,
)
from lmaas.runtime.language.grammar import _pipeline, _problem
from lmaas.runtime.language.number_grammar import Bound, integers, numbers
from lmaas.runtime.language.pattern_grammar import Unfit, pattern
from lmaas.runtime.language.schema_grammar import call_grammar, grammar
from lmaas.service import Service
from lmaas.types import TENANT

SEEDS = 12


class Model(NamedTuple):
    """A loaded engine, its tokenizer, and the tokens that end an answer."""

    engine: LanguageEngine
    tokenizer: Any
    folder: Path
    stops: tuple[int, ...]


@pytest.fixture(scope="module")
def model(language_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("model")
    with closing(Service(Settings(home=str(language_home)))) as service:
        version = service.catalog.get(TENANT, "tiny")
        service.registry.unpack(version, folder, ("compiled",))
    spec = version.manifest.signature.language
    assert spec is not None
    engine = make_language_engine("openvino-genai")
    engine.load(folder / "compiled", spec, EngineOptions(precision="f32", cache_bytes=1 << 22))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "compiled" / "tokenizer.json"))
    yield Model(engine, tokenizer, folder / "compiled", spec.stop_token_ids)
    engine.close()


def written(model: Model, schema: Any) -> list[str]:
    """The answers that came to their end, of one seed each."""
    form = Grammar(kind="json_schema", text=json.dumps(schema))
    hot = TokenSampling(max_tokens=200, temperature=2.0, stop_token_ids=model.stops, grammar=form)
    for seed in range(SEEDS):
        model.engine.add(seed, [5, 6, 7], msgspec.structs.replace(hot, seed=seed))
    tokens: dict[int, list[int]] = {seed: [] for seed in range(SEEDS)}
    ended = set()
    while model.engine.busy():
        for output in model.engine.step():
            tokens[output.sequence] += output.tokens
            if output.finish == "stop":
                ended.add(output.sequence)
    decode = model.tokenizer.decode
    return [
        decode([one for one in tokens[seed] if one not in model.stops], skip_special_tokens=False)
        for seed in sorted(ended)
    ]


PLACE = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {}}}
NODE = {
    "type": "object",
    "properties": {
        "v": {"enum": [1]},
        "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
    },
    "required": ["v", "next"],
}
SHAPES = [
    {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
    for kind in ("dot", "line")
]
FITS: list[tuple[Any, Callable[[Any], bool]]] = [
    ({"type": "string"}, lambda v: isinstance(v, str)),
    ({"type": "string", "minLength": 2, "maxLength": 3}, lambda v: 2 <= len(v) <= 3),
    ({"type": "string", "pattern": "^.{3}$"}, lambda v: len(v) == 3),
    ({"type": "string", "pattern": '^"\\\\[^a]$'}, lambda v: v[:2] == '"\\' and v[2] != "a"),
    ({"type": "string", "pattern": "^(?:ab|c{2,3}?)$|^x+$"},
     lambda v: bool(re.fullmatch("ab|c{2,3}|x+", v))),
    ({"type": "string", "pattern": r"^\u00e9\n[^\W\d]\x41\/$"},
     lambda v: bool(re.fullmatch("é\n[A-Za-z_]A/", v))),
    ({"type": "string", "format": "date"}, lambda v: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", v))),
    ({"type": "string", "format": "email"}, lambda v: v.count("@") == 1),
    ({"type": "string", "format": "ipv4"}, lambda v: all(int(n) < 256 for n in v.split("."))),
    ({"type": "integer", "minimum": -13, "exclusiveMaximum": 207}, lambda v: -13 <= v < 207),
    ({"type": "integer"}, lambda v: isinstance(v, int)),
    ({"type": "number", "minimum": 0.5, "maximum": 1.5}, lambda v: 0.5 <= v <= 1.5),
    ({"type": "number", "exclusiveMinimum": -1, "maximum": 0}, lambda v: -1 < v <= 0),
    ({"type": ["integer", "null"], "minimum": 3, "maximum": 5}, lambda v: v in (None, 3, 4, 5)),
    ({"type": "string", "enum": ["a", 1, 'q"']}, lambda v: v in ("a", 'q"')),
    ({"const": {"a": [1, None]}}, lambda v: v == {"a": [1, None]}),
    ({"minimum": 5, "maximum": 9}, lambda v: 5 <= v <= 9),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
     lambda v: 1 <= len(v) <= 3 and all(isinstance(x, bool) for x in v)),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
     lambda v: v == [1, 2][: len(v)]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3},
     lambda v: len(v) > 2 and v == [1, *[2] * (len(v) - 1)]),
    ({"type": "array", "maxItems": 0}, lambda v: v == []),
    (PLACE | {"required": ["b"]}, lambda v: v["b"] == 2 and v.keys() <= set("abc")),
    (PLACE, lambda v: v.keys() <= set("abc")),
    ({"type": "object", "properties": {"ab": {"const": 1}}, "required": ["ab"],
      "additionalProperties": {"type": "null"}},
     lambda v: v.pop("ab") == 1 and not any(v.values())),
    ({"type": "object", "additionalProperties": {"const": 1}, "minProperties": 1,
      "maxProperties": 2, "propertyNames": {"enum": ["x", "y"]}},
     lambda v: 1 <= len(v) <= 2 and set(v.values()) == {1} and v.keys() <= set("xy")),
    ({"type": "object", "patternProperties": {"^[ab]$": {"const": 1}}, "minProperties": 1,
      "additionalProperties": False}, lambda v: v and v.keys() <= set("ab")),
    ({"type": "object", "properties": {"a": {"const": 1}}, "required": ["z"]}, lambda v: "z" in v),
    ({"type": "object", "properties": {'é😀"\n': {"const": "\u0001"}}, "required": ['é😀"\n']},
     lambda v: v == {'é😀"\n': "\u0001"}),
    ({"type": "object", "properties": {"größe": {"enum": ["é1", "ßa", "\x7fb", "\u0085c"]}},
      "required": ["größe"]}, lambda v: v["größe"] in ("é1", "ßa", "\x7fb", "\u0085c")),
    ({"$defs": {"n": NODE}, "$ref": "#/$defs/n"}, lambda v: v["v"] == 1 and "next" in v),
    ({"oneOf": SHAPES, "discriminator": {"propertyName": "kind"}},
     lambda v: v["kind"] in ("dot", "line")),
    ({"allOf": [{"type": "boolean"}]}, lambda v: isinstance(v, bool)),
    ({}, lambda v: True),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "fits"), FITS, ids=lambda v: "" if callable(v) else str(v)[:50])
def test_what_is_written_fits(model: Model, schema: Any, fits: Callable[[Any], bool]) -> None:
    texts = written(model, schema)
    assert len(texts) > 1
    for text in texts:
        assert "\ufffd" not in text, "it is UTF-8"
        assert fits(json.loads(text)), text
        assert re.search(r"\s{17}", re.sub(r'"(?:[^"\\]|\\.)*"', "s", text)) is None


UNFIT: list[tuple[Any, str]] = [
    ({"not": {}}, "'not' cannot be kept"),
    ({"type": "string", "format": []}, "cannot be kept"),
    ({"if": {}, "then": {}}, "'if' cannot be kept"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "'dependentRequired'"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "'contains'"),
    ({"type": "integer", "multipleOf": 7}, "multipleOf"),
    ({"type": "integer", "minimun": 7}, "'minimun'"),
    ({"type": "string", "format": "isbn"}, "isbn.*date-time"),
    ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "pattern, format and a length"),
    ({"type": "string", "pattern": "(?=a)b"}, "assertion"),
    ({"type": "string", "pattern": r"(a)\1"}, "cannot be kept"),
    ({"type": "string", "pattern": r"\bword"}, "cannot be kept"),
    ({"type": "string", "pattern": "("}, "not closed"),
    ({"type": "string", "pattern": "a)"}, "parenthesis too many"),
    ({"type": "string", "pattern": "[b-a]"}, "range that is none"),
    ({"type": "string", "pattern": r"\ud800"}, "no character"),
    ({"type": "string", "pattern": "a{2,1}"}, "ends before it begins"),
    ({"type": "string", "pattern": "(" * 60 + ")" * 60}, "too deeply"),
    ({"type": "nonsense"}, "nonsense"),
    ({"type": "string", "minLength": -1}, "whole numbers"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, "accepts no value"),
    ({"type": "integer", "minimum": 10**400}, "beyond"),
    ({"type": "number", "maximum": -(10**4000)}, "beyond"),
    ({"type": "string", "enum": [1]}, "accepts no value"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "accepts no value"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "requires 'a'"),
    ({"allOf": [{"type": "object"}, {"type": "object"}]}, "allOf of several"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf cannot be kept"),
    ({"anyOf": []}, "list of schemas"),
    ({"anyOf": [{}], "minimum": 3}, "'minimum' cannot be kept"),
    ({"$ref": "#"}, "leads to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}, {}]}}}, "leads to itself"),
    ({"$ref": "#/nowhere"}, "leads nowhere"),
    ({"$ref": "https://example.invalid/s"}, "out of the schema"),
    ({"$ref": "#anchor"}, "out of the schema"),
    ({"properties": {"a": 3}}, "must be an object"),
]


@pytest.mark.parametrize(("schema", "told"), UNFIT, ids=lambda value: str(value)[:50])
def test_what_cannot_be_kept_is_named(schema: Any, told: str) -> None:
    with pytest.raises(Unfit, match=told):
        grammar(schema)


def test_a_call_is_written_as_templates_write_it() -> None:
    rules = call_grammar("paint", {"$defs": {"n": {"type": "null"}}, "$ref": "#/$defs/n"})
    root = rules.splitlines()[0]
    assert root.startswith(r'root ::= ("{\"name\": \"paint\", \"arguments\": "')
    assert root.endswith('"}")')


@pytest.fixture(scope="module")
def toy(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pipeline in which grammars are proven."""
    return _pipeline(model.folder, tmp_path_factory.mktemp("toy"), model.tokenizer.get_vocab_size())


KINDS = [
    lambda schema: Grammar(kind="json_schema", text=json.dumps(schema)),
    *(
        lambda schema, required=required, format_=format_: Grammar(
            kind="tools",
            text=json.dumps(
                {
                    "required": required,
                    "parallel": True,
                    "tools": [{"name": "f", "parameters": schema}],
                    "schema": format_,
                }
            ),
        )
        for required, format_ in ((True, None), (False, None), (False, {"const": "größe"}))
    ),
]
numbers_of_proofs = itertools.count(1)


@pytest.mark.parametrize("kind", KINDS, ids=["schema", "required", "auto", "union"])
def test_fixed_texts_are_written_as_they_were_meant(
    toy: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters below U+0180 that are no plain ASCII, before what may be read as their code."""
    unusual = [chr(code) for code in (*range(0x20), *range(0x7F, 0x180))]
    texts = [character + digit for character in unusual for digit in "0fA"]
    for start in range(0, len(texts), 100):
        some = texts[start : start + 100]
        schema = {"type": "object", "properties": {some[0]: {"enum": some}}}
        assert _problem(toy, next(numbers_of_proofs), kind(schema)) == ("", False)

    def joined(text: str) -> str:
        return f'"{"".join(map(ebnf._quoted, text))}"'

    monkeypatch.setattr(grammar_openvino, "literal", joined)
    problem, _ = _problem(toy, next(numbers_of_proofs), kind({"properties": {"größe": {}}}))
    assert "misreads" in problem


def expression(rules: str) -> re.Pattern[str]:
    """A grammar without rules as Python's regular expression."""
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"|(\[[^\]]*\]|\{[^}]*\}|[()|?*+])', rules)
    return re.compile("".join(plain or re.escape(text) for text, plain in parts))


def test_numbers_are_those_within_their_bounds() -> None:
    chance = random.Random(0)

    def some() -> Decimal:
        places = chance.randrange(4)
        return Decimal(chance.randint(-(10 ** chance.randint(1, 5)), 10**4)).scaleb(-places)

    for _ in range(400):
        low, high = sorted((some(), some()))
        low_open, high_open = chance.random() < 0.3, chance.random() < 0.3
        ends = Bound(low, low_open), Bound(high, high_open)
        real, whole = (
            None if found is None else expression(found)
            for found in (numbers(*ends), integers(*ends))
        )
        near = [low, high, low - 1, high + 1, (low + high) / 2, Decimal(0)]
        near += [end + Decimal(step).scaleb(-4) for end in (low, high) for step in (-1, 1)]
        for value in [*near, *(some() for _ in range(20))]:
            within = low < value < high
            within |= value == low and not low_open and (low < high or not high_open)
            within |= value == high and not high_open and (low < high or not low_open)
            text = f"{value.normalize() + 0:f}"
            assert within == bool(real and real.fullmatch(text)), (text, ends)
            if value == int(value):
                assert within == bool(whole and whole.fullmatch(f"{int(value)}")), (text, ends)


def test_patterns_are_found_anywhere_unless_they_are_held() -> None:
    assert pattern("^a$") == r"[\u0061-\u0061]"
    assert pattern("a").startswith("char* ")
    assert pattern("a").endswith(" char*")


def test_a_further_key_is_none_of_the_named() -> None:
    form = expression(no_such_key(["ab", "ac", "a", ""]))
    for key in ("b", "abc", "ad", "zzz"):
        assert form.fullmatch(key), key
    for key in ("ab", "ac", "a", ""):
        assert not form.fullmatch(key), key
