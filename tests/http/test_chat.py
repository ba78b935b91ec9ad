"""Chat completions: OpenAI's shape by OpenAI's own types; each wrong field by its name."""

import json
from typing import Any

import httpx
import pytest

from lmaas.errors import InvalidInput, Unavailable
from lmaas.generation_types import (
    CallDelta,
    ChatMessage,
    Delta,
    Format,
    GenerateRequest,
    TokenLogprob,
    ToolCall,
    Usage,
)
from lmaas.http.body import decode
from lmaas.http.chat import _decoder, to_request
from lmaas.http.chat_answer import ChatWriter, completion
from lmaas.http.collect import Collected
from lmaas.http.sse import encode
from servers import Running

USER = {"role": "user", "content": "hello world"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
DEEP: dict[str, Any] = {}
for _ in range(200):
    DEEP = {"properties": {"a": DEEP}}
LARGE = {"enum": ["x" * 1000] * 1000}


def request_of(**fields: Any) -> GenerateRequest:
    body = {"model": "m", "messages": [USER], **fields}
    return to_request(decode(json.dumps(body).encode(), _decoder))


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


def events(data: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line]


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"colour": "red"}, "colour"),
    ({"messages": [{**USER, "colour": "red"}]}, "messages[0].colour"),
    ({"n": 10_000}, "n"),
    ({"n": 0}, "n"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {str(token): 1 for token in range(20_000)}}, "logit_bias"),
    ({"logit_bias": {"hello": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": float("nan")}, None),
    ({"top_p": float("inf")}, None),
    ({"top_p": 0}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"stop": ["x"] * 100_000}, "stop"),
    ({"stop": "x" * 10_000}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"seed": 1 << 70}, "seed"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
    ({"messages": [USER, {"role": "user", "content": [AUDIO]}]}, "messages[1].content[0]"),
    ({"messages": [{**USER, "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{**USER, "content": [{**IMAGE, "type": "text", "text": "x"}]}]},
     "messages[0].content[0].image_url"),
    ({"messages": [{**USER, "content": [{**AUDIO, "type": "text", "text": "x"}]}]},
     "messages[0].content[0].input_audio"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{**USER, "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
    ({"messages": [{**USER, "audio": {"id": "1"}}]}, "messages[0].audio"),
    ({"tools": [{**TOOL, "function": {"name": "a\nb"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [TOOL] * 200}, "tools"),
    ({"tools": [{**TOOL, "function": {"name": "f", "parameters": DEEP}}]}, "tools"),
    ({"tool_choice": "required"}, "tools"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"tool_choice": "perhaps"}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": schema_format(DEEP)}, "response_format"),
    ({"response_format": schema_format(LARGE)}, "response_format"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}},
     "stream_options.include_obfuscation"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"metadata": {"a": "x" * 600}}, "metadata"),
    ({"model": None}, "model"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"chat_template_kwargs": {"a": "x" * 100_000}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"enable_thinkin": True}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
    ({"messages": [USER] * 20_000}, "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(language: Running, fields: dict[str, Any], param: str) -> None:
    body = json.dumps({"model": "tiny", "messages": [USER], "max_tokens": 4, **fields})
    url = f"{language.url}/v1/chat/completions"
    response = httpx.post(url, content=body, headers=language.caller)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"[]", b'"x"', b'{"model": "tiny", "messages": "\\ud800"}', b'{"model": "\xff"}',
     b'{"messages":' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_request_is_refused(language: Running, body: bytes) -> None:
    url = f"{language.url}/v1/chat/completions"
    response = httpx.post(url, content=body, headers=language.caller)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_everything_that_may_be_said_is_understood() -> None:
    request = request_of(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": text} for text in "ab"]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ],
        n=2,
        stop="END",
        temperature=0,
        max_completion_tokens=7,
        top_k=-1,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=3,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        reasoning_effort="none",
        chat_template_kwargs={"x": 1},
        store=False,
        service_tier="auto",
        user="me",
        metadata={"a": "b"},
        functions=None,
    )  # fmt: skip
    assert request.messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="a\nb"),
        ChatMessage(
            role="assistant",
            content=None,
            tool_calls=(ToolCall(id="1", name="f", arguments="{}"),),
        ),
        ChatMessage(role="tool", content="42", tool_call_id="1"),
    )
    assert (request.choices, request.tool_choice, request.parallel_tool_calls) == (
        2,
        "=get_weather",
        False,
    )
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.top_k) == (7, ("END",), 0)
    assert (sampling.logit_bias, sampling.logprobs) == ({5: -100.0}, 3)
    assert request.template == {"reasoning_effort": "none", "enable_thinking": False, "x": 1}


def test_formats() -> None:
    assert request_of(response_format={"type": "text"}).format is None
    assert request_of(response_format={"type": "json_object"}).format == Format(kind="json_object")
    schema = {"type": "object"}
    wanted = Format(kind="json_schema", schema=schema)
    assert request_of(response_format=schema_format(schema)).format == wanted
    of_hugging_face = {"type": "json_object", "value": schema}
    assert request_of(response_format=of_hugging_face).format == wanted
    with pytest.raises(InvalidInput):
        request_of(response_format={"type": "text", "value": schema})


DELTAS = [
    Delta(0, reasoning="hm"),
    Delta(
        0,
        "He",
        1,
        logprobs=(TokenLogprob(7, "He", b"He", float("-inf"), ((8, "é", "é".encode(), -0.5),)),),
    ),
    Delta(1, "", 1, calls=(CallDelta(0, "call_1", "f", '{"a"'),)),
    Delta(1, "", 1, calls=(CallDelta(0, arguments=": 1}"), CallDelta(1, "call_2", "g", "{}"))),
    Delta(0, "llo", 1, "length"),
    Delta(1, "", 1, "tool_calls"),
]


def test_chunks_are_what_the_client_knows() -> None:
    from openai.types.chat import ChatCompletionChunk

    writer = ChatWriter(id="1", model="m", version="m:1", usage=True, choices=2, logprobs=True)
    data = writer.begin() + b"".join(map(writer.piece, DELTAS)) + writer.end(Usage(5, 4, 1, 2))
    *told, done = events(data)
    assert done == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(text) for text in told]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-1"}
    assert {chunk.system_fingerprint for chunk in chunks} == {"m:1"}
    assert all("usage" in json.loads(text) for text in told)
    first, second, third, fourth, fifth, sixth, last = chunks
    assert (first.choices[0].delta.role, second.choices[0].delta.role) == ("assistant", None)
    assert json.loads(told[0])["choices"][0]["delta"]["reasoning_content"] == "hm"
    logprobs = second.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].logprob == -9999
    assert logprobs.content[0].top_logprobs[0].bytes == [0xC3, 0xA9]
    called = third.choices[0].delta.tool_calls
    assert called is not None
    (call,) = called
    assert (call.index, call.id, call.type) == (0, "call_1", "function")
    pieces = fourth.choices[0].delta.tool_calls or ()
    assert [(piece.index, piece.id) for piece in pieces] == [(0, None), (1, "call_2")]
    assert (fifth.choices[0].finish_reason, sixth.choices[0].finish_reason) == (
        "length",
        "tool_calls",
    )
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.total_tokens) == (5, 9)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 2


def test_a_whole_answer_is_what_the_client_knows() -> None:
    from openai.types.chat import ChatCompletion

    choices = [Collected(), Collected()]
    for delta in DELTAS:
        choices[delta.index].add(delta)
    text = encode(
        completion(
            id="1",
            model="m",
            version="m:1",
            choices=choices,
            usage=Usage(5, 4),
            logprobs=True,
            metadata={"a": "b"},
        )
    )
    answer = ChatCompletion.model_validate_json(text)
    said, called = answer.choices
    assert said.message.content == "Hello"
    assert json.loads(text)["choices"][0]["message"]["reasoning_content"] == "hm"
    assert called.message.content is None
    assert [call.id for call in called.message.tool_calls or ()] == ["call_1", "call_2"]
    assert json.loads(text)["choices"][1]["message"]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": '{"a": 1}',
    }


def test_a_failure_midway_is_told_and_nothing_says_done() -> None:
    writer = ChatWriter(id="1", model="m", version="m:1", usage=False, choices=1, logprobs=False)
    (told,) = events(writer.failed(Unavailable("The worker died.")))
    assert json.loads(told)["error"]["message"] == "The worker died."
    assert json.loads(told)["error"]["code"] == "unavailable"


def test_headers_name_the_version(language: Running) -> None:
    url = f"{language.url}/v1/chat/completions"
    body = {"model": "tiny", "messages": [USER], "max_tokens": 2, "temperature": 0}
    for more in ({}, {"stream": True}):
        response = httpx.post(url, json=body | more, headers=language.caller)
        assert response.headers["x-lmaas-model"] == "tiny:1"
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_an_unknown_model_is_not_found(language: Running) -> None:
    import openai

    with (
        openai.OpenAI(base_url=f"{language.url}/v1", api_key=language.call_key) as client,
        pytest.raises(openai.NotFoundError, match="tiny"),
    ):
        client.chat.completions.create(model="tinny", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("base", ["/v1", "/models/tiny", "/models/tiny/v1"])
def test_hugging_faces_client(language: Running, base: str) -> None:
    from huggingface_hub import InferenceClient

    url = language.url + base
    model = "tiny" if base == "/v1" else None
    client = InferenceClient(base_url=url, api_key=language.call_key)
    asked: dict[str, Any] = {"model": model, "max_tokens": 4, "temperature": 0.0}
    whole = client.chat_completion([USER], **asked)
    pieces = list(client.chat_completion([USER], **asked, stream=True))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert whole.choices[0].message.content == text
    assert whole.system_fingerprint == "tiny:1"


def test_a_path_and_a_body_that_name_two_models(language: Running) -> None:
    url = f"{language.url}/models/tiny/v1/chat/completions"
    body = {"model": "other", "messages": [USER]}
    response = httpx.post(url, json=body, headers=language.caller)
    assert response.status_code == 400
    assert "tiny" in response.json()["error"]


def test_too_large_a_body_is_refused(language: Running) -> None:
    url = f"{language.url}/v1/chat/completions"
    body = json.dumps({"model": "tiny", "messages": [{**USER, "content": "x" * (8 << 20)}]})
    response = httpx.post(url, content=body, headers=language.caller)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "payload_too_large"


def test_choices_differ_without_a_seed(language: Running) -> None:
    url = f"{language.url}/v1/chat/completions"
    body = {"model": "tiny", "messages": [USER], "max_tokens": 12, "n": 2}
    answers = [httpx.post(url, json=body, headers=language.caller).json() for _ in range(2)]
    texts = {choice["message"]["content"] for answer in answers for choice in answer["choices"]}
    assert len(texts) == 4
