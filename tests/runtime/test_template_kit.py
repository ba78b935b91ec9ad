"""Every conversation shape, by a short template of each family: the tokens are transformers' own.

What a client sends goes through the door; the same body is given to `apply_chat_template`.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import byte_fallback_tokenizer, tokenizer
from lmaas.errors import InvalidInput
from lmaas.http.body import decode
from lmaas.http.chat import _decoder, to_request
from lmaas.runtime.language.template import Template, named_tokens
from lmaas.runtime.language.tokens import Tokens

pytest.importorskip("transformers")

FAMILIES = {
    "hermes": """\
{%- macro kind(p) %}{%- if p.type is string %}{{ p.type }}{%- else %}Any{%- endif %}{%- endmacro %}
{{- bos_token }}
{%- if tools %}{{- '<|im_start|>system\n' }}
{%- for tool in tools %}{%- set f = tool.function %}
{{- '{"type": "function", "function": ' }}{{- f | tojson }}{{- '}\n' }}
{%- for name, p in f.get('parameters', {}).get('properties', {}).items() %}
{{- ' ' + name + ': ' + kind(p) }}{%- if not loop.last %}{{- ',' }}{%- endif %}
{%- endfor %}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or message.role == 'system' or (message.role == 'assistant' and
    message.tool_calls is not defined) %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '<|im_start|>tool\n' }}{%- endif %}
{{- '<tool_response>\n' + message.content }}
{%- if not loop.last %}{{- '\n</tool_response>\n' }}
{%- else %}{{- '\n</tool_response>' }}{%- endif %}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "qwen3": """\
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
{%- if message.role == 'user' and message.content is string and ns.last == messages|length - 1 %}
{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- if message.content is string %}{%- set content = message.content %}
{%- else %}{%- set content = '' %}{%- endif %}
{%- if message.role == 'assistant' %}{%- set thought = '' %}
{%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last and thought %}
{{- '<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' }}{%- endif %}{{- content }}
{%- for call in message.tool_calls or [] %}{%- set call = call.function or call %}
{{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}
{%- endif %}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}
{%- endif %}{%- endif %}""",
    "llama3": """\
{{- bos_token }}{%- if not date_string is defined %}
{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}
{{- 'Today Date: ' + date_string + '\n' + system }}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}
{%- endfor %}{%- endif %}
{%- for message in messages %}
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '[' + message['role'] + ']\n\n' + message['content'] | trim + '<|im_end|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls|length == 1 %}{{- raise_exception('one call at once') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", ' + '"parameters": ' }}{{- call.arguments | tojson }}{{- '}' }}
{%- elif message.role == 'tool' %}
{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
{%- else %}{{- message.content }}{%- endif %}{{- '<|im_end|>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]\n\n' }}{%- endif %}""",
    "mistral": """\
{{- bos_token }}{%- set ns = namespace(users=0) %}
{%- set user_messages = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- if tools is not none and message == user_messages[-1] %}{{- '[AVAILABLE_TOOLS] [' }}
{%- for tool in tools %}{%- set tool = tool.function %}{{- '{"type": "function", "function": {' }}
{%- for key, val in tool.items() if key != 'return' %}
{%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- '}}' }}
{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}{%- endfor %}
{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST] ' + message['content'] + '[/INST]' }}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}{%- set out = call.function|tojson %}
{{- out[:-1] }}{%- if not call.id is defined or call.id|length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}
{{- ', "id": "' + call.id + '"}' }}
{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}{%- endfor %}
{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content']|trim + eos_token }}
{%- elif message['role'] == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', ' }}
{%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}
{{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}
{%- endfor %}""",
    "deepseek": """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=false, is_tool=false, first=true, system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- set ns.system = ns.system + message['content'] %}{%- endif %}{%- endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false %}{{ '<User>' + message['content'] }}
{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false %}
{%- for call in message['tool_calls'] %}
{%- if not ns.is_first %}{{ '<Assistant><calls>' + call['type'] + '<sep>' + call['function']['name']
 + '\n```json\n' + call['function']['arguments'] + '\n```' + '<end>' }}{%- set ns.is_first = true %}
{%- else %}{{ '\n' + call['type'] + '<sep>' + call['function']['name'] + '\n```json\n' +
 call['function']['arguments'] + '\n```' }}{{ '</calls>' }}{%- endif %}{%- endfor %}{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{{- '<Assistant>' + message['content'] + eos_token }}{%- endif %}
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true %}{{ '<out>' + message['content'] }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt and not ns.is_tool %}{{ '<Assistant>' }}{% endif %}""",
    "gemma": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant/...') }}{% endif %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}
{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "granite": """\
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- set loop_messages = messages[1:] %}{%- else %}{%- set system = 'Knowledge Cutoff.' %}
{%- if tools and documents %}{%- set system = system + ' both' %}{%- elif tools %}
{%- set system = system + ' tools' %}{%- elif documents %}{%- set system = system + ' documents' %}
{%- endif %}{%- set loop_messages = messages %}{%- endif %}
{{- '<role>system</role>' + system + '\n' }}
{%- if tools %}{{- '<role>tools</role>' }}{{- tools | tojson(indent=4) }}{{- '\n' }}{%- endif %}
{%- for message in loop_messages %}
{{- '<role>' + message['role'] + '</role>' }}
{%- if message.content %}{{- message['content'] }}{%- endif %}
{%- if message.tool_calls %}{{- '<|tool_call|>' + message.tool_calls|map(attribute='function')|list|
tojson(separators=(',', ':'), sort_keys=true) }}{%- endif %}{{- '\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<role>assistant</role>' }}{%- endif %}
{%- endfor %}""",
    "all filters": """\
{{ pad_token }}|{{ unk_token }}|{{ sep_token is defined }}|{{ documents is none }}
{% for message in messages %}{% generation %}
{{ '%s: %05.1f' % (message.role, loop.index / 3) }}{{ '{:>8}|{}'.format(message.role, loop.index) }}
{{ '%s-%s' | format(message.role, 1) }}{{ message.role | center(12) }}{{ message.role.ljust(9) }}
{{ (message.content or '') | indent(3, true) }}{{ (message.content or '') | wordwrap(9) }}
{{ (message.content or 'x') | replace('h', 'H') | upper | title | truncate(20) }}
{% for part in [1, 2, 3, 4, 5] | slice(2) %}{{ part | join('+') }};{% endfor %}
{% for part in [1, 2, 3, 4, 5] | batch(2, '-') %}{{ part | join('+') }};{% endfor %}
{{ message | dictsort | map('first') | join(',') }}{{ message.get('name', 'nobody') }}
{% endgeneration %}{{ message | tojson(ensure_ascii=true) }}
{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}
{{ tools | tojson(indent='\t') if tools else 'none' }}{{ [3, 1] | sort | first }}
{{ 1234567 | filesizeformat }}
{{ range(3) | list }}{{ {'b': 1, 'a': [true, none, 0.5]} }}{{ 7 // 2 ** 2 }}{{ 'ab' * 2 ~ 3 }}""",
    "tool_use": {
        "default": "{% for message in messages %}{{ message.content or '' }}{% endfor %}",
        "tool_use": "{% for tool in tools %}{{ tool.function | tojson }}{% endfor %}"
        "{% for message in messages %}{{ message.role }}{{ message.content or '' }}"
        "{{ message.tool_calls[0].function.arguments if message.tool_calls }}{% endfor %}",
    },
}  # fmt: skip

USER = {"role": "user", "content": "Grüße an <world>, \"hello\" & 'you' 👋\n\n two  lines\n"}
SYSTEM = {"role": "system", "content": " be kind. "}
SAID = {"role": "assistant", "content": "hello world"}
THOUGHT = {"role": "assistant", "content": "fine", "reasoning_content": "\nhm, ok\n"}
TAGGED = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfine"}
ARGUMENTS = (
    '{"city": "Köln 👋", "b": [1, 2.5, null, true, {"x": "<a>&\'"}], "a": 1e3, "é": "\\u0001"}'
)


def calling(content: Any, *ids: str) -> dict[str, Any]:
    calls = [
        {"id": id_, "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
        for id_ in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(id_: str, content: str = '{"t": 20}') -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": id_}


SHORT, LONG = "abcDEF123", "call_0123456789abcdef01234567"
SHAPES: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, SAID, USER, SAID, USER],
    "empty": [{"role": "user", "content": ""}],
    "name": [{**USER, "name": "ann"}],
    "two users": [USER, USER],
    "ends with the assistant": [USER, SAID],
    "thought": [USER, THOUGHT, USER],
    "thought last": [USER, THOUGHT],
    "tagged": [USER, TAGGED, USER],
    "call": [USER, calling(None, SHORT), result(SHORT)],
    "call and text": [USER, calling("wait", SHORT), result(SHORT), SAID, USER],
    "call and empty text": [USER, calling("", SHORT), result(SHORT)],
    "two calls": [USER, calling(None, SHORT, "xyz456789"), result(SHORT), result("xyz456789", "")],
    "call to be answered": [SYSTEM, USER, calling(None, SHORT)],
    "long ids": [USER, calling(None, LONG), result(LONG), SAID, USER],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": 'Größe & "art" <b>\''},
        "unit": {"enum": ["c", "f", None], "default": 1.0},
    },
    "required": ["city"],
    "$defs": {"z": {"type": ["string", "null"]}, "a": {}},
}
TOOLS: dict[str, Any] = {
    "without tools": None,
    "tools": [
        {"name": "bare"},
        {"name": "weather", "description": "The weather.\n", "parameters": SCHEMA},
        {"name": "no_description", "parameters": {"type": "object", "properties": {}}},
        {"name": "no_parameters", "description": ""},
    ],
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tokenizers of transformers, and the folders of their files."""
    made = {"byte-level": tokenizer(), "byte-fallback": byte_fallback_tokenizer()}
    made["byte-level"].bos_token, made["byte-level"].unk_token = "<|im_start|>", "<|endoftext|>"
    made["byte-fallback"].pad_token = "<unk>"
    folders = {}
    for name, fast in made.items():
        fast.chat_template = None
        folders[name] = tmp_path_factory.mktemp("tokenizer")
        fast.save_pretrained(folders[name])
    return {name: (fast, folders[name]) for name, fast in made.items()}


@pytest.fixture(
    scope="module",
    params=[*((name, "byte-level") for name in FAMILIES), ("mistral", "byte-fallback")],
    ids="-".join,
)
def family(request: pytest.FixtureRequest, tokenizers: dict[str, Any]) -> Iterator[Any]:
    """A tokenizer with a family's template, of transformers and ours of the same files."""
    name, kind = request.param
    fast, folder = tokenizers[kind]
    source: Any = FAMILIES[name]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = Template(source, named_tokens(folder, config))
    fast.chat_template = source
    yield fast, Tokens(folder), template
    fast.chat_template = None
    template.close()


def theirs(fast: Any, messages: list[dict[str, Any]], tools: Any, ids: dict[str, str]) -> list[int]:
    """The tokens that transformers makes, arguments as it wants them: an object, or else text."""
    shown = json.loads(json.dumps(messages))
    for way in (json.loads, str):
        for message, given in zip(shown, messages, strict=True):
            if "tool_call_id" in message:
                message["tool_call_id"] = ids.get(given["tool_call_id"], given["tool_call_id"])
            for call, one in zip(
                message.get("tool_calls", ()), given.get("tool_calls", ()), strict=True
            ):
                call["id"] = ids.get(one["id"], one["id"])
                call["function"]["arguments"] = way(one["function"]["arguments"])
        try:
            told = fast.apply_chat_template(
                shown, tools=tools, add_generation_prompt=True, return_dict=False
            )
        except TypeError as error:
            problem = error
            continue
        return list(told)
    raise problem


@pytest.mark.parametrize("tools", TOOLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_tokens_are_transformers_own(family: Any, shape: str, tools: str) -> None:
    fast, tokens, template = family
    messages = SHAPES[shape]
    given = TOOLS[tools] and [{"type": "function", "function": tool} for tool in TOOLS[tools]]
    body = {"model": "m", "messages": messages, **({"tools": given} if given else {})}
    request = to_request(decode(json.dumps(body).encode(), _decoder))
    asked = tokens.guard_chat(request.messages, request.tools, request.template)
    try:
        prompt = template.render(asked.messages, asked.tools, asked.more)
    except InvalidInput as error:
        ours: Any = None
        told = error.message
    else:
        ours = tokens.encode_prompt(prompt, asked.mark)
        told = prompt
    try:
        wanted: Any = theirs(fast, messages, given, {})
    except Exception as error:  # noqa: BLE001 - templates refuse in many ways
        wanted = None
        if shape == "long ids" and "length 9" in str(error):
            short = hashlib.sha256(LONG.encode()).hexdigest()[:9]
            wanted = theirs(fast, messages, given, {LONG: short})
    assert ours == wanted, told


def test_what_a_template_only_writes_is_not_none() -> None:
    """Here transformers writes "None", which no model has learned."""
    request = to_request(
        decode(
            json.dumps({"model": "m", "messages": SHAPES["call"]}).encode(),
            _decoder,
        )
    )
    template = Template(
        "{% for m in messages %}{{ m.content }}/{{ m.content is none }}/{{ m.content == none }}"
        "{{ m.content is not string }}{{ m.content|tojson }}{{ m|tojson|length }};{% endfor %}",
        {},
    )
    _, call, _ = template.render(request.messages).split(";")[:3]
    assert call.startswith("/True/TrueTruenull")


def test_several_templates_are_found_where_checkpoints_have_them(tmp_path: Path) -> None:
    fast = tokenizer()
    fast.chat_template = FAMILIES["tool_use"]
    fast.save_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").is_file()
    new = Template.load(tmp_path)
    named = [{"name": name, "template": text} for name, text in FAMILIES["tool_use"].items()]  # type: ignore[attr-defined]
    for path in (tmp_path / "chat_template.jinja", *tmp_path.glob("*/*.jinja")):
        path.unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    old = Template.load(tmp_path)
    assert new is not None
    assert old is not None
    assert new.source == old.source
    assert old.takes_tools
