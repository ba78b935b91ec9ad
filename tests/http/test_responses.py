"""OpenAI's responses: typed events, stored turns, and each wrong field by its name."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from lmaas.errors import InvalidInput, NotFound, Unavailable
from lmaas.generation_types import (
    CallDelta,
    ChatMessage,
    Delta,
    GenerateRequest,
    TokenLogprob,
    ToolCall,
    Usage,
)
from lmaas.http.body import decode
from lmaas.http.responses import _decoder, answer_of
from lmaas.http.responses_answer import Response, started
from lmaas.http.responses_body import ResponsesBody, read_input, to_request
from lmaas.http.responses_writer import ResponseWriter
from lmaas.registry import responses
from lmaas.registry.database import Database
from lmaas.registry.responses import Responses, StoredResponse
from lmaas.types import KeyRecord
from servers import Running

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def body_of(**fields: Any) -> ResponsesBody:
    return decode(json.dumps({"model": "m", "input": "hello", **fields}).encode(), _decoder)


def request_of(**fields: Any) -> GenerateRequest:
    body = body_of(**fields)
    return to_request(body, (), read_input(body.input))


def ask(language: Running, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "input": "hello", "max_output_tokens": 6, "temperature": 0, **fields}
    url = f"{language.url}/v1/responses"
    return httpx.post(url, content=json.dumps(body), headers=language.caller)


def client_of(language: Running) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{language.url}/v1", api_key=language.call_key, max_retries=0)


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"colour": "red"}, "colour"),
    ({"input": []}, "input"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{**IMAGE, "type": "input_text", "text": "x"}]}]},
     "input[0].content[0].image_url"),
    ({"input": [{"role": "user", "content": [
        {"type": "input_text", "text": "x", "file_id": "f"}]}]},
     "input[0].content[0].file_id"),
    ({"input": [{"role": "assistant", "content": [
        {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}]}]},
     "input[0].content[0].annotations"),
    ({"input": [{"role": "assistant", "content": "x", "phase": "commentary"}]}, "input[0].phase"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"type": "item_reference", "id": "1"}]}, "input[0]"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ({"input": [{"role": "user", "content": "x", "output": "y"}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**TOOL, "name": "a\nb"}]}, "tools[0].name"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    ({"max_output_tokens": 2**31}, "max_output_tokens"),
    ({"temperature": float("nan")}, None),
    ({"top_logprobs": 1000}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
    ({"truncation": "auto"}, "truncation"),
    ({"background": True}, "background"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"max_tool_calls": 3}, "max_tool_calls"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_object", "schema": SCHEMA}}}, "text.format.schema"),
    ({"text": {"format": {"type": "text", "schema": SCHEMA}}}, "text.format.schema"),
    ({"text": {"format": {"type": "text", "name": "s"}}}, "text.format.name"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"format": {"type": "json_schema", "name": "s", "schema": {"enum": ["x"] * 50_000}}}},
     "text.format"),
    ({"input": "hello " * 2000}, "input"),
    ({"stream_options": {}}, "stream_options"),
    ({"previous_response_id": "resp_none"}, "previous_response_id"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(language: Running, fields: dict[str, Any], param: str) -> None:
    response = ask(language, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_everything_that_may_be_said_is_understood() -> None:
    request = request_of(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs", "summary": [],
             "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "I ask.", "annotations": [],
                          "logprobs": []}]},
            {"type": "function_call", "id": "fc", "call_id": "1", "name": "f", "arguments": "{}",
             "status": "completed"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "42"},
            {"type": "function_call_output", "call_id": "2",
             "output": [{"type": "input_text", "text": "43"}]},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
        text={"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        reasoning={"effort": "low"},
        truncation="disabled",
        background=False,
    )  # fmt: skip
    calls = (ToolCall(id="1", name="f", arguments="{}"), ToolCall(id="2", name="g", arguments="{}"))
    assert request.messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="hi"),
        ChatMessage(role="assistant", content="I ask.", reasoning="hm", tool_calls=calls),
        ChatMessage(role="tool", content="42", tool_call_id="1"),
        ChatMessage(role="tool", content="43", tool_call_id="2"),
    )
    assert request.tool_choice == "=get_weather"
    assert request.format is not None
    assert request.format.schema == SCHEMA
    assert request.sampling.logprobs == 2
    assert request.template == {"reasoning_effort": "low", "enable_thinking": True}


def test_a_conversation_goes_on_from_stored_turns(language: Running) -> None:
    with client_of(language) as client:
        asked = {"model": "tiny", "max_output_tokens": 6, "temperature": 0}
        first = client.responses.create(input="hello", instructions="Be brief.", **asked)
        again = client.responses.create(input="more", previous_response_id=first.id, **asked)
        turns = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "more"},
        ]
        whole = client.responses.create(input=turns, store=False, **asked)
        assert again.output_text == whole.output_text
        assert again.usage.input_tokens == whole.usage.input_tokens
        assert again.previous_response_id == first.id
        third = client.responses.create(input="x", previous_response_id=again.id, **asked)
        assert third.usage.input_tokens > again.usage.input_tokens


def test_what_is_stored_is_read_and_deleted(language: Running) -> None:
    from openai import BadRequestError, NotFoundError

    with client_of(language) as client:
        asked = {"model": "tiny", "max_output_tokens": 4}
        items = [{"role": "user", "content": text} for text in "abc"]
        made = client.responses.create(input=items, metadata={"a": "b"}, **asked)
        assert client.responses.retrieve(made.id) == made
        assert (made.metadata, made.status) == ({"a": "b"}, "incomplete")
        page = client.responses.input_items.list(made.id, limit=2, order="asc")
        assert [item.content[0].text for item in page.data] == ["a", "b"]
        assert [item.content[0].text for item in page] == ["a", "b", "c"]
        newest = client.responses.input_items.list(made.id)
        assert [item.content[0].text for item in newest] == ["c", "b", "a"]
        client.responses.delete(made.id)
        for use in (client.responses.retrieve, client.responses.delete):
            with pytest.raises(NotFoundError):
                use(made.id)
        with pytest.raises(BadRequestError, match="30 days"):
            client.responses.create(input="x", previous_response_id=made.id, **asked)
        unstored = client.responses.create(input="x", store=False, **asked)
        with pytest.raises(NotFoundError):
            client.responses.retrieve(unstored.id)


def test_another_key_does_not_see_a_response(language: Running) -> None:
    made = ask(language).json()
    url = f"{language.url}/v1/responses/{made['id']}"
    assert httpx.get(url, headers=language.caller).json() == made
    for path in ("", "/input_items"):
        assert httpx.get(url + path, headers=language.admin).status_code == 404
    assert httpx.delete(url, headers=language.admin).status_code == 404
    assert httpx.get(url, headers=language.caller).status_code == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [("order=up", "order"), ("limit=0", "limit"), ("limit=1000", "limit"), ("after=x", "after")],
)
def test_a_wrong_page_is_refused(language: Running, query: str, param: str) -> None:
    made = ask(language).json()
    url = f"{language.url}/v1/responses/{made['id']}/input_items?{query}"
    response = httpx.get(url, headers=language.caller)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_stream_adds_up_to_the_whole(language: Running) -> None:
    whole = ask(language).json()
    with client_of(language) as client:
        events = list(
            client.responses.create(
                model="tiny", input="hello", max_output_tokens=6, temperature=0, stream=True
            )
        )
        kept = client.responses.retrieve(events[0].response.id)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response == kept
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == kept.output_text == whole["output"][0]["content"][0]["text"]


def test_the_stock_client_calls_a_tool_and_goes_on(language: Running) -> None:
    with client_of(language) as client:
        asked = {"model": "tiny", "max_output_tokens": 200, "tools": [TOOL]}
        with client.responses.stream(
            input="hello",
            tool_choice="required",
            parallel_tool_calls=False,
            extra_body={"seed": 3},
            **asked,
        ) as stream:
            final = stream.get_final_response()
        (call,) = final.output
        assert (call.type, call.name, final.status) == (
            "function_call",
            "get_weather",
            "completed",
        )
        assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        asked |= {"tool_choice": "none", "temperature": 0, "max_output_tokens": 6}
        after = client.responses.create(input=[result], previous_response_id=final.id, **asked)
        made = call.model_dump(include={"type", "id", "call_id", "name", "arguments"})
        turns = [{"role": "user", "content": "hello"}, made, result]
        whole = client.responses.create(input=turns, **asked)
        assert after.usage.input_tokens == whole.usage.input_tokens
        assert after.output_text == whole.output_text


DELTAS = [
    Delta(0, reasoning="hm"),
    Delta(0, "He", 1, logprobs=(TokenLogprob(7, "He", b"He", -0.5, ((7, "He", b"He", -0.5),)),)),
    Delta(0, "llo", 1),
    Delta(0, "", 1, calls=(CallDelta(0, "call_1", "f", '{"a"'),)),
    Delta(0, "", 1, calls=(CallDelta(0, arguments=": 1}"), CallDelta(1, "call_2", "g", "{}"))),
    Delta(0, "", 1, "tool_calls"),
]


def writer_of(kept: list[Response]) -> ResponseWriter:
    response = started(body_of(), "resp_1", 0.0)
    return ResponseWriter(response, "1", logprobs=True, keep=kept.append)


def test_events_are_what_the_client_knows() -> None:
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    kept: list[Response] = []
    writer = writer_of(kept)
    data = writer.begin() + b"".join(map(writer.piece, DELTAS)) + writer.end(Usage(5, 6, 2, 3))
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    events = []
    for told in data.decode().rstrip("\n").split("\n\n"):
        name, body = told.split("\n")
        events.append(adapter.validate_json(body.removeprefix("data: ")))
        assert name == f"event: {events[-1].type}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert last.response.output_text == "Hello"
    assert last.response.usage.output_tokens_details.reasoning_tokens == 2
    done = {e.output_index: e.item for e in events if e.type == "response.output_item.done"}
    assert [done[index] for index in range(4)] == last.response.output
    assert msgspec.json.encode(kept[0]) == msgspec.json.encode(writer.response)
    assert answer_of(writer.response) == ChatMessage(
        role="assistant",
        content="Hello",
        reasoning="hm",
        tool_calls=(
            ToolCall(id="call_1", name="f", arguments='{"a": 1}'),
            ToolCall(id="call_2", name="g", arguments="{}"),
        ),
    )


def test_a_failure_midway_is_an_error_event_and_nothing_is_kept() -> None:
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    kept: list[Response] = []
    writer = writer_of(kept)
    writer.begin()
    writer.piece(DELTAS[1])
    told = writer.failed(Unavailable("The worker died.")).decode().rstrip("\n").split("\n\n")
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    *_, error, failed = [adapter.validate_json(event.split("data: ")[1]) for event in told]
    assert (error.type, error.message) == ("error", "The worker died.")
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.output_text == "He"
    assert kept == []


KEY = KeyRecord(id="k", tenant="t", name="n", scopes=("call",), created_at=0.0)


def stored(number: int, created_at: float, previous: str | None = None) -> StoredResponse:
    return StoredResponse(
        id=f"resp_{number}",
        created_at=created_at,
        previous=previous,
        response=msgspec.Raw(b"{}"),
        input=(),
        messages=(ChatMessage(role="user", content=str(number)),),
    )


def test_responses_are_found_at_once_kept_and_forgotten(tmp_path: Path) -> None:
    database = Database(tmp_path)
    store = Responses(database)
    now = time.time()
    store.save(KEY, stored(0, now - responses.KEPT_S - 1))
    for number in range(1, 4):
        store.save(KEY, stored(number, now, f"resp_{number - 1}" if number > 1 else None))
        assert store.load(KEY, f"resp_{number}").created_at == now
    told = store.conversation(KEY, "resp_3")
    assert [message.content for message in told] == ["1", "2", "3"]
    store.close()
    again = Responses(database)
    assert again.conversation(KEY, "resp_3") == told
    for other in (
        msgspec.structs.replace(KEY, id="other"),
        msgspec.structs.replace(KEY, tenant="other"),
    ):
        with pytest.raises(NotFound):
            again.load(other, "resp_3")
        with pytest.raises(NotFound):
            again.delete(other, "resp_3")
    with pytest.raises(NotFound):
        again.load(KEY, "resp_0")
    again.delete(KEY, "resp_2")
    with pytest.raises(InvalidInput, match="resp_2"):
        again.conversation(KEY, "resp_3")
    again.close()
    database.close()
