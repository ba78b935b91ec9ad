"""The shapes of conversations that people have: what each becomes, and what is refused by name."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lmaas.data.conversations import Example, read_examples
from lmaas.errors import InvalidInput

ASKED = {"role": "user", "content": "Weather in Oslo?"}
ANSWER = {"role": "assistant", "content": "Cold."}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"at": "Oslo"}},
}
TOOL = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}
CALLED = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def examples(path: Path, *rows: Any) -> list[Example]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(path).samples


def said(example: Example) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in example.messages]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


def test_every_shape_becomes_the_same_conversation(path: Path) -> None:
    system = ("system", "Be short.")
    shapes: list[dict[str, Any]] = [
        {"messages": [{"role": "system", "content": "Be short."}, ASKED, ANSWER]},
        {
            "conversations": [
                {"from": "system", "value": "Be short."},
                {"from": "human", "value": "Weather in Oslo?"},
                {"from": "gpt", "value": "Cold."},
            ]
        },
        {"system": "Be short.", "conversations": [ASKED, ANSWER]},
        {"system": "Be short.", "instruction": "Weather in Oslo?", "output": "Cold."},
    ]
    for example in examples(path, *shapes):
        assert said(example) == [system, ("user", "Weather in Oslo?"), ("assistant", "Cold.")]
        assert example.learned == (2,)
    (told,) = examples(
        path,
        {
            "instruction": "Translate.", "input": "ja", "output": "yes", "text": "all of it",
            "history": [["Hello?", "Hello."]],
        },
    )  # fmt: skip
    assert said(told) == [
        ("user", "Hello?"), ("assistant", "Hello."), ("user", "Translate.\n\nja"),
        ("assistant", "yes"),
    ]  # fmt: skip
    assert told.learned == (1, 3)


def test_calls_and_tools_of_every_shape(path: Path) -> None:
    as_text = json.loads(json.dumps(CALLED))
    as_text[1]["tool_calls"][0]["function"]["arguments"] = '{"at":"Oslo"}'
    tool = {"type": "function", "function": {**TOOL, "strict": True}}
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {"at": "Oslo"}}'}
    human = {"from": "human", "value": "Weather in Oslo?"}
    rows = [
        {"messages": CALLED, "tools": [tool]},
        {"messages": as_text, "tools": [tool], "parallel_tool_calls": False},
        {"conversations": [human, call], "tools": json.dumps([TOOL])},
        {"conversations": [human, call], "tools": [tool]},
    ]
    for example in examples(path, *rows):
        (made,) = example.messages[-1].tool_calls
        assert (made.name, json.loads(made.arguments)) == ("weather", {"at": "Oslo"})
        assert [offered.name for offered in example.tools] == ["weather"]
    answered = {"conversations": [human, call, {"from": "observation", "value": "-3"},
                                  {"from": "gpt", "value": "Cold."}]}  # fmt: skip
    (example,) = examples(path, answered)
    assert example.messages[2].role == "tool"
    assert example.learned == (1, 3)


def test_what_says_where_a_sample_is_from_is_passed_over_and_told(path: Path) -> None:
    examples(path, {"id": 7, "source": "web", "messages": [ASKED, ANSWER]})
    read = read_examples(path)
    assert len(read.samples) == 1
    assert read.notes == ("Fields passed over in chats.jsonl: id, source.",)
    # As a list, and packed.
    row = {"messages": [ASKED, ANSWER]}
    whole = path.with_suffix(".json")
    whole.write_text(json.dumps([row, row], indent=1))
    assert [e.place for e in read_examples(whole).samples][1] == "chats.json, item 2"
    packed = path.with_name("chats.jsonl.gz")
    packed.write_bytes(gzip.compress(json.dumps(row).encode()))
    assert read_examples(packed).samples[0].place == "chats.jsonl.gz, line 1"


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"messages": [ASKED, ANSWER], "functions": [TOOL]}, "functions"),
        ({"messages": [ASKED]}, "no assistant's message"),
        ({"messages": [{**ASKED, "tool_calls": [CALL]}, ANSWER]}, "only the assistant calls"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "no json"}}]}]}, "no JSON object"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": [1]}}]}]}, "arguments"),
        ({"messages": [ASKED, ANSWER], "tools": [{"function": {"name": "a b"}}]}, "a tool"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [{"from": "nobody", "value": "x"}]}, "nobody"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "no call as JSON"),
        ({"conversations": [{"value": "x"}]}, "conversations[0]"),
        ({"conversations": [{"from": "gpt", "value": "x"}], "tools": "[1]"}, "tools"),
        ({"instruction": "x"}, "output"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "history"),
        ({"id": 1}, "none of it is a sample's"),
        ({}, "none of it is a sample's"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_told_with_its_line(path: Path, row: Any, word: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        examples(path, {"messages": [ASKED, ANSWER]}, row)
    assert "chats.jsonl, line 2" in caught.value.message
    assert word in caught.value.message
