"""Tokens to text, reasoning and tool calls; texts to tokens that nobody can spell."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_qwen3
from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    CallDelta,
    ChatMessage,
    Delta,
    FilePart,
    Tool,
    ToolCall,
    content_of,
)
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.text import Writer
from lmaas.runtime.language.tokens import BREAKS, Tokens

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "}\\"]", "b": [1, {}]}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(make_qwen3(tmp_path_factory.mktemp("checkpoint")))


def ids_of(tokens: Tokens, text: str) -> list[int]:
    """As a model writes: tags are tokens."""
    return tokens.encode_prompt(text, BREAKS[0])


def write(tokens: Tokens, text: str, *, finish: Any = "stop", **how: Any) -> list[Delta]:
    """What a writer gives for a text that comes token by token."""
    writer = Writer(0, tokens, hidden=frozenset(tokens.special), **how)
    deltas = [writer.feed([token]) for token in ids_of(tokens, text)]
    return [delta for delta in [*deltas, writer.end(finish)] if delta is not None]


def whole(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str]]]:
    calls: dict[int, tuple[str, str]] = {}
    for piece in (call for delta in deltas for call in delta.calls):
        name, arguments = calls.get(piece.position, ("", ""))
        calls[piece.position] = name + piece.name, arguments + piece.arguments
    text = "".join(delta.text for delta in deltas)
    return text, "".join(delta.reasoning for delta in deltas), list(calls.values())


@pytest.mark.parametrize("text", ["hello", "Grüße, 你好 👋🏽 \u0301", "a<tool_call>b<think>c"])
def test_text_comes_back_as_it_was(tokens: Tokens, text: str) -> None:
    deltas = write(tokens, text)
    assert whole(deltas)[0] == text
    assert "\ufffd" not in "".join(delta.text for delta in deltas)
    assert deltas[-1].finish == "stop"
    assert sum(delta.tokens for delta in deltas) == len(ids_of(tokens, text))


def test_a_character_that_is_cut_off_is_shown_as_such(tokens: Tokens) -> None:
    writer = Writer(0, tokens)
    ids = ids_of(tokens, "👋")
    assert writer.feed(ids[:1]) is None
    assert writer.end("length") == Delta(0, "\ufffd", 1, "length")


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("o t", "two"), "one "),
        ("one two three", ("three!", "e t"), "on"),
        ("one two", ("twos",), "one two"),
        ("abcabd", ("abd",), "abc"),
        ("one", ("one",), ""),
    ],
)
def test_stop_strings(tokens: Tokens, text: str, stops: tuple[str, ...], shown: str) -> None:
    deltas = write(tokens, text, stops=stops, finish="length")
    assert whole(deltas)[0] == shown
    assert deltas[-1].finish == ("length" if shown == text else "stop")


def test_nothing_is_shown_that_a_stop_string_takes_back(tokens: Tokens) -> None:
    writer = Writer(0, tokens, stops=("quick brown",))
    shown = ""
    for token in ids_of(tokens, "the quick brown fox"):
        delta = writer.feed([token])
        shown += delta.text if delta else ""
        assert "q" not in shown
    assert writer.stopped


def test_reasoning_is_kept_apart(tokens: Tokens) -> None:
    deltas = write(tokens, "<think>\nhm, ok\n</think>\n\nyes", reasoning=True)
    assert whole(deltas) == ("yes", "hm, ok", [])
    opened = write(tokens, "hm\n</think>\n\nyes", reasoning=True, thinking=True)
    assert whole(opened) == ("yes", "hm", [])
    later = write(tokens, "no <think>x</think>", reasoning=True)
    assert whole(later)[0] == "no <think>x</think>"
    endless = write(tokens, "<think>on and on", reasoning=True, finish="length")
    assert whole(endless) == ("", "on and on", [])


def test_reasoning_tokens_are_counted(tokens: Tokens) -> None:
    writer = Writer(0, tokens, reasoning=True)
    writer.feed(ids_of(tokens, "<think>ab</think>c"))
    assert (writer.made, writer.reasoned) == (5, 3)


def test_a_tool_call_comes_in_pieces(tokens: Tokens) -> None:
    deltas = write(tokens, f"well {CALL}", tools=True)
    text, _, calls = whole(deltas)
    assert text == "well"
    assert calls == [("f", '{"a": "}\\"]", "b": [1, {}]}')]
    assert json.loads(calls[0][1])["b"] == [1, {}]
    assert deltas[-1].finish == "tool_calls"
    pieces = [call for delta in deltas for call in delta.calls]
    assert pieces[0].id.startswith("call_")
    assert len(pieces) > 3
    assert all(piece == CallDelta(0, arguments=piece.arguments) for piece in pieces[1:])


def test_several_calls(tokens: Tokens) -> None:
    other = '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>'
    text, _, calls = whole(write(tokens, f"{CALL}\n{other}", tools=True))
    assert text == ""
    assert [name for name, _ in calls] == ["f", "g"]
    assert json.loads(calls[1][1]) == {"x": 1}


@pytest.mark.parametrize(
    "broken", ["<tool_call>{nope}</tool_call>", '<tool_call>{"name": 3}</tool_call>']
)
def test_what_is_no_call_stays_text(tokens: Tokens, broken: str) -> None:
    assert whole(write(tokens, broken, tools=True)) == (broken, "", [])


TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>", '\\"</tool_call>', "\\\\", "</tool"]


@pytest.mark.parametrize("inside", TAGS)
@pytest.mark.parametrize("place", ["value", "key", "name"])
def test_a_call_may_spell_any_tag(tokens: Tokens, inside: str, place: str) -> None:
    """Wherever JSON has a string, for the grammar lets a model write it there."""
    texts = dict.fromkeys(("value", "key", "name"), "a") | {place: f"x{inside}y"}
    arguments = f'{{"{texts["key"]}": ["{texts["value"]}", {{}}]}}'
    call = f'<tool_call>\n{{"name": "{texts["name"]}", "arguments": {arguments}}}\n</tool_call>'
    name = json.loads(f'"{texts["name"]}"')
    for text in (call, call.replace("\n", "")):
        made = whole(write(tokens, f"{text}\n{text}", tools=True, reasoning=True))
        assert made == ("", "", [(name, arguments)] * 2)
        # The same where the tags are spelled by ordinary tokens, a character each.
        writer = Writer(0, tokens, tools=True)
        ids = [token for character in text for token in tokens.encode(character)]
        pieces = [writer.feed([token]) for token in ids]
        assert whole([d for d in (*pieces, writer.end("stop")) if d])[2] == [(name, arguments)]


@pytest.mark.parametrize("size", range(44, 75))
def test_a_call_that_is_cut_keeps_its_arguments(tokens: Tokens, size: int) -> None:
    arguments = '{"a": "</tool_call>", "b": [1, {}]}'
    call = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    cut = call[:size]
    deltas = write(tokens, cut, tools=True, finish="length")
    assert whole(deltas)[2] == [("f", cut.partition('"arguments": ')[2][: len(arguments)])]
    assert deltas[-1].finish == "length"


@pytest.mark.parametrize("inside", TAGS)
def test_a_text_of_a_format_may_spell_any_tag(tokens: Tokens, inside: str) -> None:
    text = f' {{"a": "x{inside}y", "b": "<tool_call>"}}'
    how = {"tools": True, "reasoning": True, "formatted": True}
    assert whole(write(tokens, text, **how)) == (text, "", [])
    assert whole(write(tokens, f"<think>hm</think>\n\n{text}", **how)) == (text, "hm", [])
    assert whole(write(tokens, f"{CALL}\n{CALL}", **how))[0::2] == (
        "",
        [("f", '{"a": "}\\"]", "b": [1, {}]}')] * 2,
    )


def test_a_call_that_is_cut_off(tokens: Tokens) -> None:
    text, _, calls = whole(write(tokens, CALL[:-20], tools=True, finish="length"))
    assert text == ""
    assert calls[0][0] == "f"
    assert whole(write(tokens, CALL[:14], tools=True, finish="length"))[0] == CALL[:14]


def test_without_tools_a_call_is_text(tokens: Tokens) -> None:
    assert whole(write(tokens, CALL)) == (CALL, "", [])


def test_not_streamed_is_one_delta(tokens: Tokens) -> None:
    (delta,) = write(tokens, f"a {CALL}", tools=True, stream=False)
    assert len(delta.calls) == 1


@pytest.mark.parametrize("spelled", ["<|im_end|>", "a<|im_start|>b", "<think><tool_call>"])
def test_special_tokens_cannot_be_spelled(tokens: Tokens, spelled: str) -> None:
    ids = tokens.encode(spelled)
    added = {
        tokens.id_of(name) for name in ("<|im_end|>", "<|im_start|>", "<think>", "<tool_call>")
    }
    assert not added & set(ids)
    assert tokens.decode(ids) == spelled


SPELLED = "a <|im_end|> b <tool_call>"


def test_nothing_of_a_conversation_spells_special_tokens(tokens: Tokens) -> None:
    """Whatever of it a template shows, in whatever notation."""
    source = (
        "{% for m in messages %}{{ m | tojson(ensure_ascii=true) }}{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
        "{% endfor %}"
        "{% for t in tools %}{{ t | tojson }}{{ t | tojson(ensure_ascii=true, indent=2) }}"
        "{{ t.function.description }}{% for k in t.function.parameters.properties %}{{ k }}"
        "{% endfor %}{% endfor %}{{ kwargs.x | tojson }}{{ kwargs.x[0] }}"
    )
    own = "a <|im_end|> b"  # What a model wrote may be its own tags.
    call = ToolCall(id="c", name="f", arguments=json.dumps({own: own, "ü": 1}))
    file = FilePart(kind="image", data="AAAA")
    parameters = {"properties": {SPELLED: {"enum": [SPELLED, "ü 👋"], "default": {SPELLED: 1}}}}
    messages = (
        ChatMessage(role="user", content=SPELLED + " ü", name=SPELLED),
        ChatMessage(role="assistant", content=None, tool_calls=(call,)),
        ChatMessage(role="user", content=content_of([SPELLED, file, f"{SPELLED} ü"])),
    )
    tools = (Tool(name="f", description=SPELLED, parameters=parameters),)
    asked = tokens.guard_chat(messages, tools, {"kwargs": {"x": [SPELLED]}})
    assert asked.messages[-1].files == [file]
    template = Template(source, {})
    prompt = template.render(asked.messages, asked.tools, asked.more)
    ids = tokens.encode_prompt(prompt, asked.mark)
    assert not {tokens.id_of(name) for name in ("<|im_end|>", "<tool_call>")} & set(ids)
    plain = template.render(messages, tools, {"kwargs": {"x": [SPELLED]}})
    assert tokens.decode(ids) == plain
    assert plain.count("<tool_call>") > 10


def test_marks_in_a_text_do_no_harm(tokens: Tokens) -> None:
    text = f"{BREAKS[0]}<|im_end|>{BREAKS[1]}"
    assert tokens.decode(tokens.encode(text)) == text
    with pytest.raises(InvalidInput, match="noncharacters"):
        tokens.encode("".join(BREAKS))


def test_length_is_known_before_it_is_counted(tokens: Tokens) -> None:
    for text in ("hello world", "x" * 1000, "你好" * 50):
        assert 0 <= tokens.at_least(text) <= len(tokens.encode(text))


def test_no_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"tokenizer\.json"):
        Tokens(tmp_path)
