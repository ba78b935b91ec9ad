"""Chat templates: what they show, and what they cannot do."""

from pathlib import Path

import pytest

from checkpoints import CHATML
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.language import ChatMessage, Tool, ToolCall
from lmaas.runtime.language.template import Template

HELLO = (ChatMessage(role="user", content="hello"),)


def render(source: str, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    return Template(source, {}).render(messages)


def test_a_conversation_becomes_a_prompt() -> None:
    call = ToolCall(id="c1", name="f", arguments='{"a": 1}')
    turns = (
        *HELLO,
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content="2", tool_call_id="c1"),
    )
    text = Template(CHATML, {}).render(turns, (Tool(name="f", parameters={"type": "object"}),))
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert '{"name": "f", "arguments": {"a": 1}}' in text
    assert text.endswith("<|im_start|>assistant\n")


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


# A finalizer that Python happens to run when the time is over takes the exception, and drops it.
DROPPED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@DROPPED
@pytest.mark.parametrize(
    "source",
    [
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
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content.strip() }}",
    ],
)
def test_a_hostile_template_is_an_error(source: str) -> None:
    with pytest.raises(InvalidInput):
        render(source)


class Deaf:
    """Its finalizer takes what is raised, and Python drops it."""

    def __del__(self) -> None:
        while True:
            pass


class Endless:
    """A text that takes for ever."""

    def __str__(self) -> str:
        Deaf()
        while True:
            pass


@DROPPED
def test_an_exception_that_python_drops_is_raised_again() -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput, match="took longer"):
            Template("{{ endless }}", {}).render(HELLO, (), {"endless": Endless()})
        assert render("as before") == "as before"


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


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'x'|center(3) }}", "{" * 2_000_000])
def test_what_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(ModelRefused):
        Template(source, {})


def test_reserved_variables_are_not_the_callers() -> None:
    with pytest.raises(InvalidInput, match="messages"):
        Template("x", {}).render(HELLO, (), {"messages": []})


def test_its_own_refusal_is_told() -> None:
    with pytest.raises(InvalidInput, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
