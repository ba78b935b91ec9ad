"""Ollama's door, by Ollama's own client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ollama import Client, ResponseError

from lmaas.errors import InvalidInput
from lmaas.generation_types import CallDelta, Delta, Format, GenerateRequest, Usage
from lmaas.http.body import decode
from lmaas.http.ollama_answer import Clock, OllamaWriter
from lmaas.http.ollama_body import (
    OllamaChat,
    OllamaGenerate,
    chat_request,
    generate_request,
    model_of,
)
from lmaas.http.ollama_models import repo_of
from servers import Running

USER = {"role": "user", "content": "hello world"}
GREEDY = {"temperature": 0, "num_predict": 8}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


def chat_of(**fields: Any) -> GenerateRequest:
    import msgspec

    body = {"model": "m", "messages": [USER], **fields}
    return chat_request(decode(json.dumps(body).encode(), msgspec.json.Decoder(OllamaChat)))


def prompt_of(**fields: Any) -> GenerateRequest:
    import msgspec

    body = {"model": "m", "prompt": "hello", **fields}
    return generate_request(decode(json.dumps(body).encode(), msgspec.json.Decoder(OllamaGenerate)))


@pytest.fixture(scope="module")
def client(language: Running) -> Iterator[Any]:
    with Client(host=language.url, headers=language.caller) as client:
        yield client


def test_the_stock_client_chats(client: Any, language: Running) -> None:
    whole = client.chat(model="tiny", messages=[USER], options=GREEDY)
    pieces = list(client.chat(model="tiny:latest", messages=[USER], options=GREEDY, stream=True))
    text = "".join(piece.message.content or "" for piece in pieces)
    assert text == whole.message.content
    assert text
    for last in (whole, pieces[-1]):
        assert (last.done, last.done_reason, last.eval_count) == (True, "length", 8)
        assert last.prompt_eval_count
        assert last.total_duration >= last.eval_duration > 0
    openai = {"model": "tiny", "messages": [USER], "temperature": 0, "max_tokens": 8}
    url = f"{language.url}/v1/chat/completions"
    other = httpx.post(url, json=openai, headers=language.caller).json()
    assert other["choices"][0]["message"]["content"] == text


def test_the_stock_client_generates(client: Any, language: Running) -> None:
    whole = client.generate(model="tiny", prompt="hello world", options=GREEDY)
    pieces = list(client.generate(model="tiny", prompt="hello world", options=GREEDY, stream=True))
    assert "".join(piece.response for piece in pieces) == whole.response
    chat = client.chat(model="tiny", messages=[USER], options=GREEDY)
    assert whole.response == chat.message.content
    raw = client.generate(model="tiny", prompt="hello world", raw=True, options=GREEDY)
    plain = {"model": "tiny", "prompt": "hello world", "max_tokens": 8, "temperature": 0}
    url = f"{language.url}/v1/completions"
    other = httpx.post(url, json=plain, headers=language.caller).json()
    assert other["choices"][0]["text"] == raw.response
    assert client.generate(model="tiny").done_reason == "load"


def test_the_stock_client_calls_tools_and_keeps_formats(client: Any) -> None:
    options = {"seed": 3, "num_predict": 200}
    formed = client.chat(model="tiny", messages=[USER], format=SCHEMA, options=options)
    assert json.loads(formed.message.content)["city"] in ("Paris", "Rome")
    called = [
        {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
        {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
    ]
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": called},
        {"role": "tool", "content": "22", "tool_name": "get_weather"},
        {"role": "tool", "content": "20", "tool_name": "get_weather"},
    ]
    answer = client.chat(model="tiny", messages=messages, tools=[TOOL], options=GREEDY)
    assert answer.done
    ids = [message.tool_call_id for message in chat_of(messages=messages, tools=[TOOL]).messages]
    assert ids == [None, None, "call_1_0", "call_1_1"]


def test_the_stock_client_sees_the_models(client: Any) -> None:
    (told,) = client.list().models
    assert (told.model, told.details.family) == ("tiny:latest", "qwen3forcausallm")
    assert told.size > 0
    shown = client.show("tiny")
    assert {"completion", "tools"} <= set(shown.capabilities)
    assert shown.modelinfo["qwen3forcausallm.context_length"] > 0
    client.generate(model="tiny")
    (loaded,) = client.ps().models
    assert loaded.model == "tiny:1"
    assert loaded.expires_at is not None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "nope"}, "nope"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": {"colour": 1}}, "options.colour"),
        ({"messages": [{**USER, "images": ["AAAA"]}]}, "images"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "answers no call"),
        ({"format": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}, "schema"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_the_stock_client_reads_what_is_refused(
    language: Running, fields: dict[str, Any], told: str
) -> None:
    body = {"model": "tiny", "messages": [USER], **fields}
    answer = httpx.post(f"{language.url}/api/chat", json=body, headers=language.caller)
    assert answer.status_code in (400, 404)
    assert answer.json().keys() == {"error"}
    assert told in answer.json()["error"]


def test_its_errors_are_the_stock_clients(client: Any, language: Running) -> None:
    with pytest.raises(ResponseError, match="no model"):
        client.chat(model="nope", messages=[USER])
    with pytest.raises(ResponseError, match="is a model for text-generation"):
        client.embed(model="tiny", input="a")
    with pytest.raises(ResponseError, match="scope admin"):
        client.pull("hf.co/a/b")
    with pytest.raises(ResponseError, match="scope admin"):
        client.generate(model="tiny", keep_alive=0)
    with Client(host=language.url, headers=language.admin) as admin:
        with pytest.raises(ResponseError, match=r"hf\.co/ORG/NAME"):
            admin.pull("llama3.2")
        with pytest.raises(ResponseError, match=r"no such route.*lmaas"):
            admin.delete("tiny")


def test_options_are_understood() -> None:
    request = chat_of(
        options={"num_predict": -1, "seed": 7, "stop": ["END"], "num_ctx": 4096, "top_k": 5},
        format="json",
        keep_alive="5m",
        think="low",
    )
    assert (request.sampling.max_tokens, request.sampling.top_k) == (None, 5)
    assert (request.sampling.seed, request.sampling.stop) == (7, ("END",))
    assert request.sampling.temperature == 0.8
    assert request.format == Format(kind="json_object")
    assert request.template == {"reasoning_effort": "low", "enable_thinking": True}
    assert request.stream
    assert not chat_of(stream=False).stream
    assert [m.role for m in prompt_of(system="Be brief.").messages] == ["system", "user"]
    assert prompt_of(raw=True).prompt == "hello"
    for wrong in ({"raw": True, "system": "x"}, {"suffix": "x"}, {"template": "x"}):
        with pytest.raises(InvalidInput):
            prompt_of(**wrong)


def test_a_stream_has_whole_calls() -> None:
    writer = OllamaWriter("m", Clock(), chat=True)
    deltas = [
        Delta(0, reasoning="hm"),
        Delta(0, "Hello", 1),
        Delta(0, "", 1, calls=(CallDelta(0, "call_1", "f", '{"a"'),)),
        Delta(0, "", 1, calls=(CallDelta(0, arguments=": 1}"), CallDelta(1, "call_2", "g", "{}"))),
        Delta(0, "", 1, "tool_calls"),
    ]
    data = b"".join(map(writer.piece, deltas)) + writer.end(Usage(5, 4))
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["message"].get("thinking") for line in lines] == ["hm", None, None, None]
    calls = [call["function"] for call in lines[2]["message"]["tool_calls"]]
    assert calls == [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert (lines[3]["done_reason"], lines[3]["eval_count"]) == ("stop", 4)


def test_what_is_pulled_is_the_hubs() -> None:
    assert model_of("hf.co/org/Name") == model_of("name:latest") == model_of("name") == "name"
    assert repo_of("hf.co/org/name") == repo_of("huggingface.co/org/name:latest") == "org/name"
    for wrong in ("llama3", "hf.co/org/name:Q4_K_M"):
        with pytest.raises(InvalidInput):
            repo_of(wrong)
