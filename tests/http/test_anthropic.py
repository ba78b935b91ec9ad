"""Anthropic's messages: its own client reads what is rendered; each wrong field by its name."""

import json
from typing import Any

import httpx
import pytest

from lmaas.errors import Unavailable
from lmaas.generation_types import CallDelta, ChatMessage, Delta, GenerateRequest, ToolCall, Usage
from lmaas.http.body import decode
from lmaas.http.collect import Collected
from lmaas.http.messages import _decoder
from lmaas.http.messages_answer import MessageWriter, message
from lmaas.http.messages_body import to_request
from lmaas.http.sse import encode
from servers import Running

USER = {"role": "user", "content": "hello world"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}

FORMAT = {"type": "json_schema", "schema": SCHEMA}
BEGUN = {"role": "assistant", "content": "It is"}
CALLED = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "1", "name": "get_weather", "input": {}}],
}


def request_of(**fields: Any) -> GenerateRequest:
    body = {"model": "m", "max_tokens": 5, "messages": [USER], **fields}
    return to_request(decode(json.dumps(body).encode(), _decoder))


def ask(language: Running, route: str = "", **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": [USER], **fields}
    url = f"{language.url}/v1/messages{route}"
    headers = {"x-api-key": language.call_key, "anthropic-version": "2023-06-01"}
    return httpx.post(url, content=json.dumps(body), headers=headers)


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "colour"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"temperature": float("nan")}, "JSON"),
    ({"messages": []}, "no messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "system", "content": [IMAGE]}]}, "'image'"),
    ({"messages": [USER, BEGUN], "output_config": {"format": FORMAT}}, "format"),
    ({"messages": [USER, BEGUN], "thinking": {"type": "adaptive"}}, "reason"),
    ({"messages": [USER, CALLED]}, "results are missing"),
    (user(IMAGE), "'image'"),
    (user({"type": "document", "source": {}}), "'document'"),
    (user({"type": "text"}), "messages[0].content[0].text"),
    (user({"type": "text", "text": "x", "citations": {"enabled": True}}), "citations"),
    (user({"type": "tool_use", "id": "1", "name": "f", "input": {}}), "'tool_use'"),
    (user({"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}), "'image'"),
    ({"system": [IMAGE]}, "'image'"),
    ({"tools": [{"name": "bash", "type": "bash_20250124"}]}, "bash_20250124"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [TOOL, TOOL]}, "same name"),
    ({"tool_choice": {"type": "any"}}, "no tools"),
    ({"tool_choice": {"type": "tool", "name": "f"}, "tools": [TOOL]}, "'f'"),
    ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "name"),
    ({"thinking": {"type": "enabled"}}, "budget_tokens goes with the type enabled"),
    ({"thinking": {"type": "disabled", "budget_tokens": 3}}, "budget_tokens"),
    ({"thinking": {"type": "adaptive", "budget_tokens": 3}}, "budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}, "max_tokens": 5}, "no token is left"),
    ({"stop_sequences": ["x"] * 100_000}, "stop_sequences"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_man"),
    ({"fallbacks": [{"model": "m"}]}, "fallbacks"),
    ({"output_config": {"task_budget": {"type": "tokens", "total": 5}}}, "task_budget"),
    ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "one field"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"thread": {"type": "create"}}, "thread"),
]


@pytest.mark.parametrize(("fields", "told"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(language: Running, fields: dict[str, Any], told: str) -> None:
    response = ask(language, **{"max_tokens": 4, **fields})
    assert response.status_code == 400, response.text
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert told in body["error"]["message"]


def test_errors_have_anthropics_shape(language: Running) -> None:
    unknown = ask(language, model="nope", max_tokens=4)
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    open_door = httpx.post(f"{language.url}/v1/messages", json={})
    assert open_door.status_code == 401
    assert open_door.json()["error"]["type"] == "authentication_error"


def test_everything_that_may_be_said_is_understood() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    request = request_of(
        system=[{"type": "text", "text": "Be brief.", **cached}],
        messages=[
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "I ask."},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": "no"},
                    {"type": "text", "text": "Again."},
                ],
            },
        ],
        tools=[{**TOOL, **cached, "type": "custom"}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2000},
        max_tokens=3000,
        stop_sequences=["END"],
        top_k=3,
        metadata={"user_id": "me"},
    )
    assert request.messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="hello world"),
        ChatMessage(
            role="assistant",
            content="I ask.",
            reasoning="hm",
            tool_calls=(ToolCall(id="1", name="f", arguments='{"a":1}'),),
        ),
        ChatMessage(role="tool", content="Error: no", tool_call_id="1"),
        ChatMessage(role="user", content="Again."),
    )
    assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
    assert request.template == {"enable_thinking": True, "thinking_budget": 2000}
    assert (request.sampling.stop, request.sampling.top_k) == (("END",), 3)
    assert request_of().template == {"enable_thinking": False}


def client_of(language: Running) -> Any:
    from anthropic import Anthropic

    return Anthropic(base_url=language.url, api_key=language.call_key, max_retries=0)


def test_the_stock_client_chats_and_streams(language: Running) -> None:
    asked = {"model": "tiny", "messages": [USER], "max_tokens": 8, "extra_body": {"temperature": 0}}
    with client_of(language) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        count = client.messages.count_tokens(model="tiny", messages=[USER])
    assert whole.content[0].text == streamed.content[0].text
    assert (whole.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 8
    assert whole.usage.input_tokens == count.input_tokens
    assert whole.usage.cache_read_input_tokens is None  # this engine does not tell


def test_the_stock_client_gets_tool_calls(language: Running) -> None:
    asked = {
        "model": "tiny",
        "messages": [USER],
        "max_tokens": 200,
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "extra_body": {"seed": 3},
    }
    with client_of(language) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    for answer in (whole, streamed):
        (block,) = answer.content
        assert (block.type, block.name) == ("tool_use", "get_weather")
        assert block.input["city"] in ("Paris", "Rome")
        assert answer.stop_reason == "tool_use"


def test_tools_streamed_by_the_tool_runner(language: Running) -> None:
    """`eager_input_streaming` stands in each tool that the client's own runner streams."""
    tool = {**TOOL, "eager_input_streaming": True, "allowed_callers": ["direct"]}
    asked = {
        "model": "tiny",
        "messages": [USER],
        "max_tokens": 200,
        "tools": [tool],
        "tool_choice": {"type": "any"},
        "extra_body": {"seed": 3, "temperature": 0},
    }
    with client_of(language) as client, client.beta.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    assert "content_block_delta" in kinds
    assert answer.content[0].input["city"] in ("Paris", "Rome")


def test_parse_gives_what_the_schema_says(language: Running) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class City(BaseModel):
        city: Literal["Paris", "Rome"]

    asked = {"model": "tiny", "messages": [USER], "max_tokens": 100, "extra_body": {"seed": 1}}
    with client_of(language) as client:
        parsed = client.messages.parse(**asked, output_format=City)
        old = client.messages.create(**{**asked, "extra_body": {"output_format": FORMAT}})
    assert parsed.parsed_output.city in ("Paris", "Rome")
    assert json.loads(old.content[0].text)["city"] in ("Paris", "Rome")


def test_a_thread_is_refused_as_the_client_expects(language: Running) -> None:
    from anthropic.types import ThreadUnsupportedRequestError

    asked = {"model": "tiny", "messages": [USER], "max_tokens": 4}
    with client_of(language) as client:
        with pytest.raises(ThreadUnsupportedRequestError) as caught:
            client.beta.messages.create(**asked, thread={"type": "create"})
        thread = client.beta.messages.thread(
            model="tiny", max_tokens=4, unsupported_request_behavior="continue_unthreaded"
        )
        first, second = thread.send(USER), thread.send(USER)
    assert caught.value.error_code == "thread_unsupported_request"
    assert first.content
    assert second.usage.input_tokens > first.usage.input_tokens


def test_max_tokens_is_a_ceiling(language: Running) -> None:
    """The defaults of clients are 16,384 and 128,000, whatever the model's context."""
    asked: dict[str, Any] = {"seed": 1, "stop_sequences": ["a", "e", "i", "1"]}
    answer = ask(language, **asked, max_tokens=128_000)
    assert answer.status_code == 200, answer.text
    least = ask(language, **asked, max_tokens=64).json()
    assert answer.json()["content"] == least["content"]
    chat = {"model": "tiny", "messages": [USER], "seed": 1, "stop": ["a", "e", "i", "1"]}
    for field in ("max_tokens", "max_completion_tokens"):
        url = f"{language.url}/v1/chat/completions"
        told = httpx.post(url, json={**chat, field: 128_000}, headers=language.caller)
        assert told.status_code == 200, told.text
    long = httpx.post(
        f"{language.url}/v1/chat/completions",
        json={**chat, "messages": [{"role": "user", "content": "word " * 20_000}]},
        headers=language.caller,
    )
    assert long.json()["error"]["code"] == "context_length_exceeded"


def test_an_answer_that_is_begun_goes_on(language: Running) -> None:
    """What comes is what the model says after the prompt that ends with the beginning."""
    asked: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    whole = ask(language, **asked).json()
    text = whole["content"][0]["text"]
    begun = {"role": "assistant", "content": text[:3]}
    went_on = ask(language, **asked, messages=[USER, begun]).json()
    assert went_on["usage"]["input_tokens"] > whole["usage"]["input_tokens"]
    chat = {
        "model": "tiny", "messages": [USER, begun], "continue_final_message": True,
        "add_generation_prompt": False, **asked,
    }  # fmt: skip
    url = f"{language.url}/v1/chat/completions"
    other = httpx.post(url, json=chat, headers=language.caller).json()
    assert other["choices"][0]["message"]["content"] == went_on["content"][0]["text"]
    anew = httpx.post(
        url,
        json={**chat, "continue_final_message": None, "add_generation_prompt": None},
        headers=language.caller,
    ).json()
    assert anew["usage"]["prompt_tokens"] > other["usage"]["prompt_tokens"]


def test_instructions_between_the_turns() -> None:
    more = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, USER]
    roles = [message.role for message in request_of(messages=[USER, *more]).messages]
    assert roles == ["user", "system", "user"]


def test_what_claude_code_sends() -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request = request_of(
        system=[{"type": "text", "text": "You help.", **cached}],
        tools=[{**TOOL, "name": "mcp__" + "server" * 15 + "__tool", "eager_input_streaming": True}],
        thinking={"type": "adaptive", "display": "omitted"},
        output_config={"effort": "max"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        max_tokens=32_000,
        diagnostics={"previous_message_id": None},
        metadata={"user_id": "user_1"},
    )
    assert request.template == {"reasoning_effort": "xhigh"}


def test_what_is_thought_may_be_left_out() -> None:
    choice = Collected()
    for delta in DELTAS:
        choice.add(delta)
    answer = message(id="1", model="m", choice=choice, usage=Usage(5), silent=True)
    assert b"hm" not in encode(answer)
    writer = MessageWriter(id="1", model="m", prompt=Usage(5), silent=True)
    told = b"".join(map(writer.piece, DELTAS))
    assert b"hm" not in told
    assert b'"thinking"' in told


def test_models_are_listed_in_pages(language: Running) -> None:
    with client_of(language) as client:
        page = client.models.list(limit=1)
        assert [model.id for model in page] == ["tiny"]
        assert page.data[0].type == "model"
        assert page.data[0].created_at.year > 2020
        assert not page.has_more
        assert not client.models.list(limit=5, after_id="tiny").data
        assert [m.id for m in client.models.list(limit=5, before_id="x").data] == ["tiny"]
        assert client.models.retrieve("tiny:1").id == "tiny:1"


def test_a_stop_sequence_is_named(language: Running) -> None:
    fields: dict[str, Any] = {"max_tokens": 12, "seed": 3}
    text = ask(language, **fields).json()["content"][0]["text"]
    stop = text[4:7]
    cut = ask(language, **fields, stop_sequences=["\0", stop]).json()
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", stop)
    assert cut["content"][0]["text"] == text[: text.index(stop)]


DELTAS = [
    Delta(0, reasoning="hm"),
    Delta(0, "He", 1, reasoning="!"),
    Delta(0, "llo", 1),
    Delta(0, "", 1, calls=(CallDelta(0, "call_1", "f", '{"a"'),)),
    Delta(0, "", 1, calls=(CallDelta(0, arguments=": 1}"), CallDelta(1, "call_2", "g", "{}"))),
    Delta(0, "", 1, "tool_calls"),
]


def test_events_are_what_the_client_knows() -> None:
    from anthropic.types import RawMessageStreamEvent
    from pydantic import TypeAdapter

    writer = MessageWriter(id="1", model="m", prompt=Usage(5))
    data = writer.begin() + b"".join(map(writer.piece, DELTAS)) + writer.end(Usage(5, 6, 2, 3))
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    kinds, grown = [], dict[int, str]()
    for told in data.decode().rstrip("\n").split("\n\n"):
        name, body = told.split("\n")
        kinds.append(name.removeprefix("event: "))
        event = json.loads(body.removeprefix("data: "))
        assert event["type"] == kinds[-1]
        if event["type"] != "ping":
            adapter.validate_python(event)
        if event["type"] == "content_block_delta":
            (text,) = [value for key, value in event["delta"].items() if key != "type"]
            grown[event["index"]] = grown.get(event["index"], "") + text
        if event["type"] == "message_delta":
            assert event["delta"]["stop_reason"] == "tool_use"
            assert event["usage"]["input_tokens"] == 2
            assert event["usage"]["cache_read_input_tokens"] == 3
    assert grown == {0: "hm!", 1: "Hello", 2: '{"a": 1}', 3: "{}"}
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_a_whole_answer_is_what_the_client_knows() -> None:
    from anthropic.types import Message

    choice = Collected()
    for delta in DELTAS:
        choice.add(delta)
    answer = message(id="1", model="m", choice=choice, usage=Usage(5, 6))
    read = Message.model_validate_json(encode(answer))
    assert [block.type for block in read.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert json.loads(encode(answer))["content"][2]["input"] == {"a": 1}


def test_a_failure_midway_is_an_error_event() -> None:
    writer = MessageWriter(id="1", model="m", prompt=Usage(5))
    told = writer.failed(Unavailable("The worker died."))
    name, body = told.decode().rstrip("\n").split("\n")
    assert name == "event: error"
    assert json.loads(body.removeprefix("data: "))["error"]["type"] == "overloaded_error"


def test_a_call_that_is_cut_keeps_what_is_whole() -> None:
    made = {"a": 'x"\\\u00e9 y, z', "b": [1, {"c": -12.5, "d": True}], "größe": None}
    arguments = json.dumps(made)

    def told(size: int) -> dict[str, Any]:
        call = CallDelta(0, "c1", "f", arguments[:size])
        choice = Collected()
        choice.add(Delta(0, finish="length", calls=(call,)))
        body = json.loads(encode(message(id="1", model="m", choice=choice, usage=Usage(1, 1))))
        (block,) = body["content"]
        value: dict[str, Any] = block["input"]
        return value

    assert told(len(arguments)) == made
    assert told(len(arguments) - 1) == made
    assert told(arguments.index("-12.5") + 4)["b"] == [1, {}]
    assert told(arguments.index("y, z"))["a"] == 'x"\\\u00e9 '
    for size in range(len(arguments)):
        for name, value in told(size).items():
            if name != "b":
                assert str(made[name]).startswith(str(value))
