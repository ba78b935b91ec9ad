"""Chat templates: what they show, and what they cannot do."""

import gc
from pathlib import Path

import psutil
import pytest

from checkpoints import CHATML
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.generation_types import ChatMessage, FilePart, Tool, ToolCall, content_of
from lmaas.runtime.language.template import (
    MAX_PROMPT_CHARS,
    MEMORY_BYTES,
    Template,
)
from lmaas.runtime.language.template_helper import environment

HELLO = (ChatMessage(role="user", content="hello"),)


def render(source: str, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    return Template(source, {}).render(messages)


def test_a_conversation_becomes_a_prompt() -> None:
    call = ToolCall(id="c1", name="f", arguments='{"a": 1}')
    turns = (
        *HELLO,
        ChatMessage(role="assistant", content=None, tool_calls=(call,)),
        ChatMessage(role="tool", content="2", tool_call_id="c1"),
    )
    text = Template(CHATML, {}).render(turns, (Tool(name="f", parameters={"type": "object"}),))
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert '{"name": "f", "arguments": {"a": 1}}' in text
    assert text.endswith("<|im_start|>assistant\n")


PARTS = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'image' or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'audio' %}<|audio|>
{%- elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_parts_are_shown_as_transformers_shows_them() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    image, audio = FilePart(kind="image", data="AAAA"), FilePart(kind="audio", data="BBBB")
    turns = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content=content_of(["What", "is", image, audio, "?"])),
        ChatMessage(role="assistant", content="A cat."),
    )
    told = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What\nis"},
                {"type": "image"},
                {"type": "audio"},
                {"type": "text", "text": "?"},
            ],
        },
        {"role": "assistant", "content": "A cat."},
    ]
    (theirs,), _ = utils.render_jinja_template(
        [told], chat_template=PARTS, add_generation_prompt=True
    )
    assert render(PARTS, turns) == theirs
    assert theirs.count("<|image_pad|>") == theirs.count("<|audio|>") == 1


def test_variables_and_helpers() -> None:
    source = "{{ bos_token }}{% generation %}{{ strftime_now('%Y')|length }}{% endgeneration %}"
    source += "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}"
    source += "{{ 'no thinking' if not enable_thinking }}{{ {'a': 'ü'}|tojson }}"
    told = Template(source, {"bos_token": "<s>"}).render(HELLO, (), {"enable_thinking": False})
    assert told == '<s>4no thinking{"a": "ü"}'


def test_it_is_found_where_checkpoints_have_it(tmp_path: Path) -> None:
    assert Template.load(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "in the config", "bos_token": {"content": "<s>"}}')
    template = Template.load(tmp_path)
    assert template is not None
    assert template.source == "in the config"
    config.write_text('{"chat_template": [{"name": "default", "template": "of many"}]}')
    template = Template.load(tmp_path)
    assert template is not None
    assert template.source == "of many"
    (tmp_path / "chat_template.jinja").write_text("in a file")
    template = Template.load(tmp_path)
    assert template is not None
    assert template.source == "in a file"


HOSTILE = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{{ 'a' * 10000000000 }}",
    "{{ [0] * 10000000000 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ 'a'.center(9999999999) }}",
    "{{ 'a'.ljust(9999999999) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "{{ range(99999)|join('a' * 1000000) }}",
    "{{ ('a' * 1000000).join(['b'] * 1000000) }}",
    "{% set x = namespace(v='ab') %}{% for i in range(60) %}{% set x.v = x.v ~ x.v %}"
    "{% endfor %}{{ x.v }}",
    "{% set x = namespace(v='ab') %}{% for i in range(60) %}{% set x.v = x.v + x.v %}"
    "{% endfor %}{{ x.v }}",
    "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ messages.append(1) }}",
    "{% if messages is none 1e999 %}{% endif %}",
    "{{ raise_exception('roles must alternate') }}",
    "{{ messages[7].content.strip() }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_an_error(source: str) -> None:
    """Also when it is read, since what is constant is computed then."""
    with pytest.raises((InvalidInput, ModelRefused)):
        render(source)


def ways_to_grow() -> list[str]:
    """Every filter and method of the sandbox, and operators, given much by various arguments."""
    number = "(9000000000 + which * 0)"  # no constant
    big = "('ab' * (400000 + which * 0))"
    ways = [f"{big}.translate({{97: {big}, 98: {big}}})", f"'%{'9' * 10}d' % which"]
    for name in environment().filters:
        ways += [f"{big}|{name}", f"{big}|{name}({number})", f"range(99999)|{name}({big})"]
    subjects: list[tuple[str, type]] = [(big, str), (f"[{big}]", list), ("{1: which}", dict)]
    for subject, kind in subjects:
        for name in (name for name in dir(kind) if name[0] != "_"):
            call = f"{subject}.{name}"
            ways += [f"{call}()", f"{call}({number})", f"{call}({big}, {big})"]
    ways += [f"{big} {operator} {number}" for operator in ("*", "%", "+", "~")]
    ways += [f"{number} {operator} {number}" for operator in ("**", "*")]
    return [*ways, "'{:>9000000000}'.format(which)", "lipsum(n=99999)", f"range({number})|list"]


def test_nothing_that_the_sandbox_has_grows_without_bound() -> None:
    """All ways in one template, so that one process renders them."""
    ways = ways_to_grow()
    assert len(ways) > 300
    branches = "".join(
        f"{{% elif which == {number} %}}{{{{ {way} }}}}" for number, way in enumerate(ways)
    )
    template = Template(f"{{% if which == -1 %}}well{branches}{{% endif %}}", {})
    before = psutil.Process().memory_info().rss
    refused = 0
    for which, way in enumerate(ways):
        try:
            assert len(template.render(HELLO, (), {"which": which})) <= MAX_PROMPT_CHARS, way
        except InvalidInput:
            refused += 1
    assert 50 < refused < len(ways)
    assert template.render(HELLO, (), {"which": -1}) == "well"
    assert psutil.Process().memory_info().rss - before < 256 << 20
    assert template._helper.pid is not None
    soft, _ = psutil.Process(template._helper.pid).rlimit(psutil.RLIMIT_AS)
    assert MEMORY_BYTES < soft < 4 * MEMORY_BYTES, "its own memory is bounded by the kernel"


def test_its_process_ends_with_it() -> None:
    template = Template("x", {})
    process = psutil.Process(template._helper.pid)
    process.kill()
    with pytest.raises(InvalidInput, match="ends the process"):
        template.render(HELLO)
    assert template.render(HELLO) == "x"
    process = psutil.Process(template._helper.pid)
    del template
    gc.collect()
    with pytest.raises(psutil.NoSuchProcess):
        process.status()


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ ''|attr('__class__') }}", "{{ (1).__add__ }}"],
)
def test_python_is_out_of_reach(source: str) -> None:
    try:
        told = render(source)
    except InvalidInput:
        return
    assert told == ""


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'x'|nothing(3) }}", "{" * 2_000_000])
def test_what_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(ModelRefused):
        Template(source, {})


def test_reserved_variables_are_not_the_callers() -> None:
    with pytest.raises(InvalidInput, match="messages"):
        Template("x", {}).render(HELLO, (), {"messages": []})


def test_its_own_refusal_is_told() -> None:
    with pytest.raises(InvalidInput, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
