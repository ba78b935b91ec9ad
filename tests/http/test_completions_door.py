"""Text completions: prompts side by side, echoed prompts, and each wrong field by its name."""

import json
from typing import Any

import httpx
import pytest

from lmaas.errors import QueueFull
from lmaas.generation_types import Delta, GenerateRequest, TokenLogprob, Usage
from lmaas.http.body import decode
from lmaas.http.collect import Collected
from lmaas.http.completions import _decoder, to_requests
from lmaas.http.completions_answer import TextWriter, completion
from lmaas.http.sse import encode
from servers import Running


def requests_of(**fields: Any) -> list[GenerateRequest]:
    body = {"model": "m", "prompt": "hello", **fields}
    return to_requests(decode(json.dumps(body).encode(), _decoder))


def ask(language: Running, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": "hello world", "max_tokens": 4, "temperature": 0, **fields}
    url = f"{language.url}/v1/completions"
    return httpx.post(url, content=json.dumps(body), headers=language.caller)


def answer(language: Running, **fields: Any) -> dict[str, Any]:
    from openai.types import Completion

    response = ask(language, **fields)
    assert response.status_code == 200, response.text
    Completion.model_validate_json(response.content)
    told: dict[str, Any] = response.json()
    return told


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"colour": "red"}, "colour"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": ["x"] * 129}, "prompt"),
    ({"prompt": ["x"] * 65, "n": 2}, "prompt"),
    ({"suffix": "end"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"n": 10_000}, "n"),
    ({"logprobs": 1000}, "logprobs"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"echo": True, "logprobs": 0, "stream": True}, "echo"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"echo": True, "max_tokens": 0, "prompt": [10**6]}, "prompt"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"temperature": float("nan")}, None),
    ({"stop": ["x"] * 100_000}, "stop"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(language: Running, fields: dict[str, Any], param: str) -> None:
    response = ask(language, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_too_long_a_prompt_is_told(language: Running) -> None:
    response = ask(language, prompt=[5] * 600)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_prompts_of_every_kind() -> None:
    assert [r.prompt for r in requests_of(prompt="a")] == ["a"]
    assert [r.prompt for r in requests_of(prompt=["a", "b"])] == ["a", "b"]
    assert [r.prompt for r in requests_of(prompt=[1, 2])] == [(1, 2)]
    assert [r.prompt for r in requests_of(prompt=[[1], [2, 3]])] == [(1,), (2, 3)]
    (request,) = requests_of(n=2, best_of=2, suffix="")
    assert (request.choices, request.sampling.max_tokens) == (2, 16)
    assert (request.echo, request.prompt_logprobs) == (False, None)
    (request,) = requests_of(echo=True, logprobs=3)
    assert (request.echo, request.prompt_logprobs, request.sampling.logprobs) == (True, 3, 3)


def test_prompts_side_by_side_answer_as_alone(language: Running) -> None:
    prompts = ["hello world", "the quick brown", "a"]
    alone = [answer(language, prompt=prompt) for prompt in prompts]
    together = answer(language, prompt=prompts, n=2)
    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    for index, choice in enumerate(together["choices"]):
        assert choice["text"] == alone[index // 2]["choices"][0]["text"]
    used = [one["usage"]["prompt_tokens"] for one in alone]
    assert together["usage"]["prompt_tokens"] == sum(used)
    assert together["usage"]["completion_tokens"] == 24


def test_streamed_prompts_are_the_same(language: Running) -> None:
    fields: dict[str, Any] = {"prompt": ["hello world", "the quick"], "logprobs": 0, "n": 2}
    whole = answer(language, **fields)
    response = ask(language, **fields, stream=True, stream_options={"include_usage": True})
    *told, done = [line[6:] for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    chunks = [json.loads(text) for text in told]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for wanted in whole["choices"]:
        mine = [choice for choice in choices if choice["index"] == wanted["index"]]
        assert "".join(choice["text"] for choice in mine) == wanted["text"]
        assert mine[-1]["finish_reason"] == wanted["finish_reason"]
        for name in ("tokens", "token_logprobs"):
            joined = [x for c in mine if c["logprobs"] for x in c["logprobs"][name]]
            assert joined == wanted["logprobs"][name]


def test_one_bad_prompt_of_many_refuses_all(language: Running) -> None:
    response = ask(language, prompt=["hello", "x " * 4000], stream=True)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert answer(language)["choices"]


def test_echo_gives_the_prompt_back(language: Running) -> None:
    plain, echoed = answer(language), answer(language, echo=True)
    assert echoed["choices"][0]["text"] == "hello world" + plain["choices"][0]["text"]
    assert echoed["usage"] == plain["usage"]


def test_a_prompt_alone_comes_back(language: Running) -> None:
    both = answer(language, prompt=["hello", "hello world"], n=2, echo=True, max_tokens=0)
    told = [(choice["text"], choice["finish_reason"]) for choice in both["choices"]]
    assert told == [("hello", "length")] * 2 + [("hello world", "length")] * 2
    assert both["usage"]["completion_tokens"] == 0
    assert both["usage"]["prompt_tokens"] > 0
    streamed = ask(language, echo=True, max_tokens=0, stream=True).text
    assert streamed.endswith("data: [DONE]\n\n")
    assert "hello world" in streamed


def test_no_text_ends_a_line_of_a_stream(language: Running) -> None:
    prompt = "one\u2028two\u2029three\x85four\x0bfive\x1csix\u2030"
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "echo": True, "stream": True}
    url = f"{language.url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=language.caller) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    text = "".join(choice["text"] for line in lines for choice in json.loads(line)["choices"])
    assert text.startswith(prompt)


def test_log_probabilities_of_prompt_and_answer() -> None:
    choice = Collected()
    choice.add(Delta(0, "ab"))
    choice.add(
        Delta(
            0, "c", 1, "stop", logprobs=(TokenLogprob(3, "c", b"c", -1.0, ((3, "c", b"c", -1.0),)),)
        )
    )
    before = (
        TokenLogprob(1, "a", b"a", None),
        TokenLogprob(2, "b", b"b", -0.5, ((9, "z", b"z", -0.1),)),
    )
    text = encode(
        completion(
            id="1",
            model="m",
            version="m:1",
            choices=[choice],
            prompts=[before],
            usage=Usage(2, 1),
            logprobs=True,
        )
    )
    (told,) = json.loads(text)["choices"]
    assert told["text"] == "abc"
    assert told["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -0.5, -1.0],
        "top_logprobs": [None, {"z": -0.1}, {"c": -1.0}],
        "text_offset": [0, 1, 2],
    }


def test_a_failure_midway_is_told_and_nothing_says_done() -> None:
    writer = TextWriter(id="1", model="m", version="m:1", usage=False, choices=1, logprobs=False)
    told = writer.failed(QueueFull("No."))
    assert json.loads(told.removeprefix(b"data: "))["error"]["type"] == "rate_limit_error"
    assert b"[DONE]" not in told
