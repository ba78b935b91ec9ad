"""Tools beside a format, at each door that has both: calls, or else a text that fits the schema."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from servers import Running

SCHEMA = {
    "type": "object",
    "properties": {"größe": {"enum": ["é1", "</tool_call>", "<tool_call>"]}},
    "required": ["größe"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "additionalProperties": False}
TOOLS = {"paint": SCHEMA, "look": NOTHING}
TEXT = "hello world"
SEEDS = range(8)


class Answer(NamedTuple):
    """What came: a text, the calls by name and arguments, and why it ended."""

    text: str
    calls: list[tuple[str, str]]
    finish: str


def chat(language: Running, *, stream: bool, **asked: Any) -> Answer:
    from openai import OpenAI

    client = OpenAI(base_url=f"{language.url}/v1", api_key=language.call_key)
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    fields: Any = {
        "model": "tiny",
        "messages": [{"role": "user", "content": TEXT}],
        "tools": [
            {"type": "function", "function": {"name": name, "parameters": schema}}
            for name, schema in TOOLS.items()
        ],
        "response_format": format_,
        "max_completion_tokens": 150,
        **asked,
    }
    if not stream:
        (choice,) = client.chat.completions.create(**fields).choices
        made = choice.message.tool_calls or []
        calls = [(call.function.name, call.function.arguments) for call in made]
        return Answer(choice.message.content or "", calls, choice.finish_reason)
    text, told, finish = "", dict[int, list[str]](), ""
    for chunk in client.chat.completions.create(stream=True, **fields):
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        for call in choice.delta.tool_calls or []:
            name, arguments = told.setdefault(call.index, ["", ""])
            told[call.index] = [
                name + (call.function.name or ""),
                arguments + (call.function.arguments or ""),
            ]
        finish = choice.finish_reason or finish
    return Answer(text, [(name, arguments) for name, arguments in told.values()], finish)


def responses(language: Running, *, stream: bool, **asked: Any) -> Answer:
    """The last event of a stream has the whole answer."""
    body = {
        "model": "tiny",
        "input": TEXT,
        "tools": [
            {"type": "function", "name": name, "parameters": schema}
            for name, schema in TOOLS.items()
        ],
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
        "max_output_tokens": 150,
        "store": False,
        "stream": stream,
        **asked,
    }
    told = httpx.post(
        f"{language.url}/v1/responses",
        content=json.dumps(body),
        headers={"authorization": f"Bearer {language.call_key}"},
        timeout=60,
    )
    assert told.status_code == 200, told.text
    whole = told.json() if not stream else list(events(told.text))[-1]["response"]
    text = "".join(
        part["text"] for i in whole["output"] if i["type"] == "message" for part in i["content"]
    )
    calls = [
        (item["name"], item["arguments"])
        for item in whole["output"]
        if item["type"] == "function_call"
    ]
    finish = {"completed": "stop", "incomplete": "length"}[whole["status"]]
    return Answer(text, calls, "tool_calls" if calls and finish == "stop" else finish)


def events(stream: str) -> Iterator[Any]:
    for line in stream.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def check(answer: Answer, *, parallel: bool) -> str:
    """Whether it is calls or a text; whole where it came to its end."""
    if answer.calls:
        assert not answer.text.strip()
        assert parallel or len(answer.calls) == 1
        whole = answer.calls if answer.finish == "tool_calls" else answer.calls[:-1]
        for name, arguments in whole:
            value = json.loads(arguments)
            assert value == {} if name == "look" else value["größe"] in enum()
        return "calls"
    assert answer.finish in ("stop", "length")
    if answer.finish == "stop":
        assert json.loads(answer.text)["größe"] in enum()
    return "text"


def enum() -> list[str]:
    values: list[str] = SCHEMA["properties"]["größe"]["enum"]  # type: ignore[index]
    return values


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", [chat, responses])
def test_an_answer_is_calls_or_a_text_that_fits(
    language: Running, door: Any, stream: bool, parallel: bool
) -> None:
    hot = {"temperature": 2.0, "parallel_tool_calls": parallel}
    kinds = {
        check(door(language, stream=stream, seed=seed, **hot), parallel=parallel) for seed in SEEDS
    }
    assert kinds == {"calls", "text"}


@pytest.mark.parametrize("door", [chat, responses])
def test_what_is_asked_for_decides(language: Running, door: Any) -> None:
    hot = {"temperature": 2.0, "seed": 1, "parallel_tool_calls": False, "stream": False}
    assert check(door(language, tool_choice="required", **hot), parallel=False) == "calls"
    assert check(door(language, tool_choice="none", **hot), parallel=False) == "text"
