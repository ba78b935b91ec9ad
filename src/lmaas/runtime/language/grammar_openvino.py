"""What a sequence may write, in OpenVINO GenAI's own description: grammars of XGrammar, and tags.

A union takes only branches that end by themselves, so calls that must come are written as one
grammar of all tools; where free text may stand between them, each tool is a tag.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from lmaas.runtime.language import schema_grammar
from lmaas.runtime.language.calls import CALL, END_CALL, END_THINK, SEPARATOR, THINK
from lmaas.runtime.language.ebnf import literal
from lmaas.runtime.language.engine import Grammar

ANY_OBJECT: Final = '{"type": "object"}'
REMEMBERED: Final = 256
"""So many schemas are kept as the grammars that they become."""


def structured(grammar: Grammar) -> Any:
    """`grammar` as GenAI's own description. Raises Unfit where a schema cannot be kept."""
    import openvino_genai as genai

    output = genai.StructuredOutputConfig
    if grammar.kind != "tools":
        return _after_reasoning([_written(grammar.text or ANY_OBJECT)], grammar.reasoning)
    wanted = json.loads(grammar.text)
    tools, schema = wanted["tools"], wanted["schema"]
    if wanted["required"] or schema is not None:
        texts = [_calls(json.dumps(tools), wanted["parallel"])]
        if schema is not None and not wanted["required"]:
            texts.append(_written(json.dumps(schema)))
        return _after_reasoning(texts, grammar.reasoning)
    begin, end = CALL + SEPARATOR, SEPARATOR + END_CALL
    tags = [output.Tag(begin, output.EBNF(_called(json.dumps(tool))), end) for tool in tools]
    free = output.TriggeredTags([CALL], tags, False, not wanted["parallel"])
    config = output()
    # A tag that is thought of begins no call.
    opened = grammar.reasoning == "opened"
    config.structural_tags_config = output.Concat([_thought(), free]) if opened else free
    return config


def compared(grammar: Grammar, texts: Sequence[str]) -> Any:
    """A grammar of these texts, one after the other, that takes the way which `grammar` takes."""
    import openvino_genai as genai

    output = genai.StructuredOutputConfig
    rules = f"root ::= {' '.join(literal(text) for text in ('x', *texts))}\n"
    if grammar.kind != "tools" and grammar.reasoning == "none":
        return output(grammar=rules)
    config = output()
    config.structural_tags_config = output.Concat([output.EBNF(rules), output.EBNF('root ::= ""')])
    return config


def _after_reasoning(texts: Sequence[str], reasoning: str) -> Any:
    """A text that fits any of the grammars, with what may stand before it."""
    import openvino_genai as genai

    output = genai.StructuredOutputConfig
    if len(texts) == 1 and reasoning == "none":
        return output(grammar=texts[0])
    rules = [output.EBNF(text) for text in texts]
    answer = output.Union(rules) if len(rules) > 1 else rules[0]
    if reasoning != "none":
        thought = _thought("" if reasoning == "opened" else THINK)
        blanks = output.EBNF('root ::= "\\n"{0,2}')
        after = output.Concat([thought, blanks, answer])
        answer = after if reasoning == "opened" else output.Union([answer, after])
    config = output()
    config.structural_tags_config = answer
    return config


def _thought(begin: str = "") -> Any:
    """Any text up to the end of the reasoning."""
    import openvino_genai as genai

    output = genai.StructuredOutputConfig
    return output.Tag(begin, output.AnyText(), END_THINK)


@lru_cache(maxsize=REMEMBERED)
def _written(schema: str) -> str:
    return schema_grammar.grammar(json.loads(schema))


@lru_cache(maxsize=REMEMBERED)
def _called(tool: str) -> str:
    named = json.loads(tool)
    return schema_grammar.call_grammar(named["name"], named["parameters"])


@lru_cache(maxsize=REMEMBERED)
def _calls(tools: str, parallel: bool) -> str:
    named = [(tool["name"], tool["parameters"]) for tool in json.loads(tools)]
    return schema_grammar.calls_grammar(named, parallel=parallel)
